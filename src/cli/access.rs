//! Flags over environment over configuration file, into what the library takes.

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use icecore::backup::EtcdOptions;
use icecore::etcd;
use icecore::fault::Kind;
use icecore::format::CapturePath;
use icecore::guard;
use icecore::memory::Memory;
use icecore::milvus;
use icecore::repository::{Access, KeyCost, Repository};
use icecore::selection::Selection;
use icecore::source::{BucketOptions, DirectoryOptions, MilvusAccess};
use icecore::storage::{ATTEMPTS, CredentialVars, S3Access, S3Address};

use super::Session;
use super::args::{Backup, EtcdCapture, Global, Restore, Sources};
use super::config::{ARRAY, File};
use super::failure::Failure;
use super::show::parse_size;

/// What holds for every command.
pub struct Settings {
    file: File,
    repository: Option<String>,
    passphrase_file: Option<PathBuf>,
    cache: PathBuf,
    limits: (Option<u64>, Option<u64>),
    pub memory: Memory,
    /// The line of snapshots.
    pub series: String,
    /// Whether the user named it.
    pub series_given: bool,
}

fn env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn default_cache() -> PathBuf {
    let home = || env("HOME").map(|home| Path::new(&home).join(".cache"));
    let base = env("XDG_CACHE_HOME").map(PathBuf::from).or_else(home);
    base.unwrap_or_else(std::env::temp_dir).join("icecore")
}

fn read_secret(path: &Path) -> Result<String, Failure> {
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|e| Failure::usage(format!("cannot read {}: {e}", path.display())))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

fn run_secret(command: &str) -> Result<String, Failure> {
    let failed = |why: String| Failure::usage(format!("the command for a secret failed: {why}"));
    let output = std::process::Command::new("sh")
        .arg("-c")
        .arg(command)
        .stderr(std::process::Stdio::inherit())
        .output();
    let output = output.map_err(|e| failed(e.to_string()))?;
    if !output.status.success() {
        return Err(failed(output.status.to_string()));
    }
    let text = String::from_utf8(output.stdout).map_err(|e| failed(e.to_string()))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

impl Settings {
    pub fn load(global: &Global) -> Result<Settings, Failure> {
        let named = global.config.clone().or_else(|| env("ICECORE_CONFIG").map(PathBuf::from));
        let file = File::load(named.as_deref())?;
        let series = global.series.clone().or_else(|| file.get("", "repository", "series"));
        let series_given = series.is_some();
        let series = series.unwrap_or_else(|| "default".into());
        let from_file = |key: &str| file.get(&series, "repository", key);
        let rate = |flag: &Option<String>, key: &str| match flag.clone().or_else(|| from_file(key)) {
            Some(text) => parse_size(&text).map(Some).map_err(Failure::usage),
            None => Ok(None),
        };
        let limits =
            (rate(&global.limit_upload, "limit-upload")?, rate(&global.limit_download, "limit-download")?);
        let cache = global.cache_dir.clone().or_else(|| env("ICECORE_CACHE_DIR").map(PathBuf::from));
        let cache = cache.or_else(|| from_file("cache-dir").map(PathBuf::from)).unwrap_or_else(default_cache);
        let memory =
            match global.memory.clone().or_else(|| env("ICECORE_MEMORY")).or_else(|| from_file("memory")) {
                None => Memory::USUAL,
                Some(text) => Memory::of(parse_size(&text).map_err(Failure::usage)?)
                    .ok_or_else(|| Failure::usage("--memory is at least 128MiB"))?,
            };
        let repository =
            global.repository.clone().or_else(|| env("ICECORE_REPOSITORY")).or_else(|| from_file("url"));
        let passphrase_file = global.passphrase_file.clone();
        Ok(Settings { repository, passphrase_file, cache, memory, limits, series, series_given, file })
    }

    pub fn get(&self, table: &str, key: &str) -> Option<String> {
        self.file.get(&self.series, table, key)
    }

    /// Each of an array's texts, or the one text there is.
    pub fn list(&self, table: &str, key: &str) -> Vec<String> {
        let joined = self.get(table, key);
        let texts = joined.iter().flat_map(|joined| joined.split(ARRAY));
        // An empty array has one, as it is kept.
        texts.filter(|text| !text.is_empty()).map(str::to_owned).collect()
    }

    fn access(&self) -> Result<Access, Failure> {
        let missing =
            || Failure::usage("no repository was named: use -r, ICECORE_REPOSITORY or [repository] url");
        let location = self.repository.as_ref().ok_or_else(missing)?.parse()?;
        Ok(Access {
            location,
            credentials: credentials("ICECORE_REPOSITORY"),
            cache: self.cache.clone(),
            upload: self.limits.0,
            download: self.limits.1,
        })
    }

    /// The passphrase, asked for where nothing else gives it; twice where it is a new one.
    fn passphrase(&self, new: bool) -> Result<String, Failure> {
        not_empty(self.find_passphrase(new)?)
    }

    fn find_passphrase(&self, new: bool) -> Result<String, Failure> {
        if let Some(path) = &self.passphrase_file {
            return read_secret(path);
        }
        if let Some(path) = env("ICECORE_PASSPHRASE_FILE") {
            return read_secret(Path::new(&path));
        }
        if let Some(command) = env("ICECORE_PASSPHRASE_COMMAND") {
            return run_secret(&command);
        }
        if let Some(passphrase) = env("ICECORE_PASSPHRASE") {
            return Ok(passphrase);
        }
        if let Some(path) = self.get("repository", "passphrase-file") {
            return read_secret(Path::new(&path));
        }
        if let Some(command) = self.get("repository", "passphrase-command") {
            return run_secret(&command);
        }
        ask("passphrase of the repository: ", new)
    }
}

fn not_empty(passphrase: String) -> Result<String, Failure> {
    match passphrase.is_empty() {
        true => Err(Failure::usage("the passphrase is empty, which protects nothing")),
        false => Ok(passphrase),
    }
}

/// Asks on the terminal.
fn ask(prompt: &str, twice: bool) -> Result<String, Failure> {
    use std::io::IsTerminal;
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage(
            "no passphrase was given: use --passphrase-file, ICECORE_PASSPHRASE_FILE, ICECORE_PASSPHRASE_COMMAND \
             or ICECORE_PASSPHRASE",
        ));
    }
    let read = |prompt: &str| {
        rpassword::prompt_password(prompt).map_err(|e| match e.kind() {
            std::io::ErrorKind::Interrupted => Failure::new(Kind::Interrupted, "interrupted"),
            _ => Failure::new(Kind::Failed, format!("cannot ask: {e}")),
        })
    };
    let passphrase = read(prompt)?;
    if twice && read("again: ")? != passphrase {
        return Err(Failure::usage("the two passphrases differ"));
    }
    Ok(passphrase)
}

/// A new passphrase for `key add` and `key passwd`.
pub fn new_passphrase(file: Option<&Path>) -> Result<String, Failure> {
    not_empty(match (file, env("ICECORE_NEW_PASSPHRASE_FILE"), env("ICECORE_NEW_PASSPHRASE")) {
        (Some(path), _, _) => read_secret(path)?,
        (None, Some(path), _) => read_secret(Path::new(&path))?,
        (None, None, Some(passphrase)) => passphrase,
        (None, None, None) => ask("new passphrase: ", true)?,
    })
}

/// Keys from `<before>_ACCESS_KEY_ID` and so on.
fn credentials(before: &str) -> Option<CredentialVars> {
    let id = env(&format!("{before}_ACCESS_KEY_ID"))?;
    let secret = env(&format!("{before}_SECRET_ACCESS_KEY"))?;
    Some(CredentialVars { id, secret, token: env(&format!("{before}_SESSION_TOKEN")) })
}

fn s3(endpoint: &str, ca: Option<PathBuf>, credentials: Option<CredentialVars>) -> S3Access {
    let endpoint = (endpoint != "aws").then(|| endpoint.to_owned());
    S3Access {
        address: S3Address { endpoint, region: env("AWS_REGION"), ca },
        credentials,
        attempts: ATTEMPTS,
    }
}

/// What names a user.
struct User {
    /// Whose.
    of: &'static str,
    name: Option<String>,
    /// The flag's.
    password_file: Option<PathBuf>,
    /// With the password; with `_COMMAND` behind it, what prints it.
    variable: &'static str,
    /// The configuration's file, and its command.
    configured: [Option<String>; 2],
}

impl User {
    fn read(self) -> Result<Option<(String, String)>, Failure> {
        let Some(name) = self.name else { return Ok(None) };
        if let Some((name, password)) = name.split_once(':') {
            return Ok(Some((name.into(), password.into())));
        }
        let command = env(&format!("{}_COMMAND", self.variable));
        let password = match (self.password_file, env(self.variable), command, self.configured) {
            (Some(path), ..) => read_secret(&path)?,
            (_, Some(password), ..) => password,
            (_, _, Some(command), _) | (_, _, _, [None, Some(command)]) => run_secret(&command)?,
            (_, _, _, [Some(path), _]) => read_secret(Path::new(&path))?,
            _ => ask(&format!("password of {} user {name}: ", self.of), false)?,
        };
        Ok(Some((name, password)))
    }
}

fn identity(cert: Option<PathBuf>, key: Option<PathBuf>) -> Result<Option<(PathBuf, PathBuf)>, Failure> {
    match (cert, key) {
        (Some(cert), Some(key)) => Ok(Some((cert, key))),
        (None, None) => Ok(None),
        _ => Err(Failure::usage("a client certificate needs its key: give both --etcd-cert and --etcd-key")),
    }
}

impl Session {
    pub fn init(&self) -> Result<Repository, Failure> {
        let access = self.settings.access()?;
        let passphrase = self.settings.passphrase(true)?;
        Ok(Repository::init(&self.context, &access, &passphrase, KeyCost::of(&passphrase))?)
    }

    pub fn open(&self) -> Result<Repository, Failure> {
        let access = self.settings.access()?;
        let passphrase = self.settings.passphrase(false)?;
        Ok(Repository::open(&self.context, &access, &passphrase)?)
    }

    /// The passphrase that opened the repository.
    pub fn passphrase(&self) -> Result<String, Failure> {
        self.settings.passphrase(false)
    }

    pub fn etcd_source(&self, arguments: &Sources) -> Result<Option<EtcdOptions>, Failure> {
        let file = |key: &str| self.settings.get("etcd", key);
        let path = |flag: &Option<PathBuf>, key: &str| flag.clone().or_else(|| file(key).map(PathBuf::from));
        let urls = match arguments.etcd.is_empty() {
            false => arguments.etcd.clone(),
            true => {
                let urls = self.settings.list("etcd", "url");
                urls.iter().flat_map(|urls| urls.split(',')).map(str::to_owned).collect()
            }
        };
        if urls.is_empty() {
            return Ok(None);
        }
        let user = User {
            of: "etcd",
            name: arguments.etcd_user.clone().or_else(|| file("user")),
            password_file: arguments.etcd_password_file.clone(),
            variable: "ICECORE_ETCD_PASSWORD",
            configured: ["password-file", "password-command"].map(file),
        };
        let access = etcd::Access {
            endpoints: urls,
            user: user.read()?,
            ca: path(&arguments.etcd_ca, "ca"),
            identity: identity(path(&arguments.etcd_cert, "cert"), path(&arguments.etcd_key, "key"))?,
        };
        let prefix = arguments.etcd_prefix.clone().or_else(|| file("prefix")).unwrap_or_default();
        Ok(Some(EtcdOptions { access, prefix: prefix.into_bytes(), capture: None }))
    }

    /// The way to read etcd, where it is not to be chosen.
    pub fn etcd_capture(&self, flag: Option<EtcdCapture>) -> Result<Option<CapturePath>, Failure> {
        let how = match (flag, self.settings.get("etcd", "capture")) {
            (Some(how), _) => how,
            (None, None) => return Ok(None),
            (None, Some(text)) => EtcdCapture::from_str(&text, false).map_err(|_| {
                Failure::usage(format!("capture in [etcd] is {text:?}: snapshot, watch or range"))
            })?,
        };
        Ok(Some(match how {
            EtcdCapture::Snapshot => CapturePath::Snapshot,
            EtcdCapture::Watch => CapturePath::Watch,
            EtcdCapture::Range => CapturePath::Range,
        }))
    }

    /// What its `milvus.yaml` says, where one is named.
    pub fn milvus_config(&self, flag: Option<&Path>) -> Result<Option<milvus::Config>, Failure> {
        let file = || self.settings.get("milvus", "config").map(PathBuf::from);
        let path = flag.map(Path::to_owned).or_else(file);
        path.map(|path| super::milvus::read_config(&path)).transpose()
    }

    /// How a Milvus is treated by a backup.
    pub fn milvus(&self, arguments: &Backup) -> Result<guard::Options, Failure> {
        let file = |key: &str| self.settings.get("milvus", key);
        let config = self.milvus_config(arguments.milvus_config.as_deref())?;
        let bucket_root = config.and_then(|config| config.root);
        let management = arguments.milvus_management.clone().or_else(|| file("management"));
        let flush = self.milvus_flush(arguments)?;
        Ok(guard::Options { check: !arguments.no_milvus_check, bucket_root, management, flush })
    }

    fn milvus_flush(&self, arguments: &Backup) -> Result<Option<MilvusAccess>, Failure> {
        let file = |key: &str| self.settings.get("milvus", key);
        let path = |flag: &Option<PathBuf>, key: &str| flag.clone().or_else(|| file(key).map(PathBuf::from));
        let Some(url) = arguments.milvus_flush.clone().or_else(|| file("flush")) else { return Ok(None) };
        let user = User {
            of: "Milvus",
            name: arguments.milvus_user.clone().or_else(|| file("user")),
            password_file: arguments.milvus_password_file.clone(),
            variable: "ICECORE_MILVUS_PASSWORD",
            configured: ["password-file", "password-command"].map(file),
        };
        Ok(Some(MilvusAccess { url, user: user.read()?, ca: path(&arguments.milvus_ca, "ca") }))
    }

    /// The bucket to back up: that of the flags, of the configuration, or of a `milvus.yaml`.
    pub fn bucket_source(
        &self,
        arguments: &Sources,
        selection: Selection,
        milvus_config: Option<&Path>,
    ) -> Result<Option<BucketOptions>, Failure> {
        // A flag for a directory takes the place of the file's bucket.
        let file = |key: &str| self.settings.get("objects", key).filter(|_| arguments.dir.is_none());
        let endpoint = arguments.s3.clone().or_else(|| file("s3"));
        let bucket = match arguments.bucket.clone().or_else(|| file("bucket")) {
            None if endpoint.is_some() => self.milvus_config(milvus_config)?.and_then(|config| config.bucket),
            bucket => bucket,
        };
        let (endpoint, bucket) = match (endpoint, bucket) {
            (Some(endpoint), Some(bucket)) => (endpoint, bucket),
            (None, None) => return Ok(None),
            (Some(_), None) => {
                return Err(Failure::usage(
                    "--s3 needs the --bucket to back up, or a --milvus-config that names it",
                ));
            }
            (None, Some(_)) => {
                return Err(Failure::usage("--bucket needs the --s3 server it is on (aws for AWS)"));
            }
        };
        let ca = arguments.s3_ca.clone().or_else(|| file("ca").map(PathBuf::from));
        let prefix = arguments.prefix.clone().or_else(|| file("prefix")).unwrap_or_default();
        let access = s3(&endpoint, ca, credentials("ICECORE_S3"));
        let versions = match file("versions").as_deref() {
            None | Some("false") => false,
            Some("true") => true,
            Some(other) => return Err(Failure::usage(format!("versions in [objects] is no {other:?}"))),
        };
        Ok(Some(BucketOptions { access, bucket, prefix, selection, versions }))
    }

    pub fn directory_source(
        &self,
        arguments: &Sources,
        selection: Selection,
    ) -> Result<Option<DirectoryOptions>, Failure> {
        let file = |key: &str| self.settings.get("objects", key);
        let yes = |flag: bool, key: &str| match file(key).as_deref() {
            _ if flag => Ok(true),
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(other) => {
                Err(Failure::usage(format!("{key:?} in [objects] is {other:?}, not true or false")))
            }
        };
        // A bucket's flags take the place of the file's directory.
        let path = match (&arguments.dir, &arguments.s3) {
            (None, None) => file("dir").map(PathBuf::from),
            (dir, _) => dir.clone(),
        };
        let exclude_caches = yes(arguments.exclude_caches, "exclude-caches")?;
        let one_file_system = yes(arguments.one_file_system, "one-file-system")?;
        let Some(path) = path else {
            return match arguments.exclude_caches || arguments.one_file_system {
                true => Err(Failure::usage("--exclude-caches and --one-file-system are about a --dir")),
                false => Ok(None),
            };
        };
        Ok(Some(DirectoryOptions { path, selection, exclude_caches, one_file_system }))
    }

    /// Flags take the place of the file's globs.
    pub fn selection(&self, include: &[String], exclude: &[String]) -> Result<Selection, Failure> {
        let list = |flags: &[String], key: &str| match flags.is_empty() {
            false => flags.to_vec(),
            true => self.settings.list("objects", key),
        };
        Ok(Selection::new(list(include, "include"), list(exclude, "exclude"))?)
    }

    pub fn etcd_target(&self, arguments: &Restore) -> Result<Option<etcd::Access>, Failure> {
        if arguments.to_etcd.is_empty() {
            return Ok(None);
        }
        let user = User {
            of: "etcd",
            name: arguments.to_etcd_user.clone(),
            password_file: arguments.to_etcd_password_file.clone(),
            variable: "ICECORE_TO_ETCD_PASSWORD",
            configured: [None, None],
        };
        Ok(Some(etcd::Access {
            endpoints: arguments.to_etcd.clone(),
            user: user.read()?,
            ca: arguments.to_etcd_ca.clone(),
            identity: identity(arguments.to_etcd_cert.clone(), arguments.to_etcd_key.clone())?,
        }))
    }

    pub fn bucket_target(&self, arguments: &Restore) -> Result<Option<(S3Access, String)>, Failure> {
        let (endpoint, bucket) = match (&arguments.to_s3, &arguments.to_bucket) {
            (Some(endpoint), Some(bucket)) => (endpoint, bucket),
            (None, None) => return Ok(None),
            (Some(_), None) => return Err(Failure::usage("--to-s3 needs the --to-bucket to restore to")),
            (None, Some(_)) => return Err(Failure::usage("--to-bucket needs the --to-s3 server it is on")),
        };
        let keys = credentials("ICECORE_TO_S3").or_else(|| credentials("ICECORE_S3"));
        let access = s3(endpoint, arguments.to_s3_ca.clone(), keys);
        Ok(Some((access, bucket.clone())))
    }
}
