//! What can be typed.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use super::show::{parse_duration, parse_share, parse_size, parse_span};
use clap::{Args, Parser, Subcommand, ValueEnum};

/// Incremental, deduplicating snapshots of etcd and S3 object storage.
#[derive(Parser)]
#[command(name = "icecore", version, max_term_width = 100)]
#[command(
    after_help = "A POINT is latest, latest~2, an id or its unique beginning, a name given at backup, \
rev:12345 (any etcd revision that the snapshots cover: see revisions), rev:12345@ID (in the line of that \
snapshot) or time:2026-11-22T10:00:00Z (the last revision known at or before; without etcd the last snapshot).\n\n\
Exit codes: 0 done, 1 failed, 2 usage, 3 done with warnings, 4 damage found, 5 the size bound cannot be met, 10 no repository, \
12 wrong passphrase, 130 interrupted."
)]
pub struct Arguments {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Args)]
pub struct Global {
    /// The repository: a path, or s3://bucket/prefix?endpoint=http://host:port [env: ICECORE_REPOSITORY]
    #[arg(short, long, global = true, value_name = "URL")]
    pub repository: Option<String>,
    /// A file with the passphrase [env: ICECORE_PASSPHRASE_FILE; or ICECORE_PASSPHRASE_COMMAND, ICECORE_PASSPHRASE]
    #[arg(long, global = true, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
    /// The configuration file [env: ICECORE_CONFIG] [default: ./icecore.toml, /etc/icecore/icecore.toml]
    #[arg(short, long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The line of snapshots [default: default]
    #[arg(long, global = true, value_name = "NAME")]
    pub series: Option<String>,
    /// Where this machine's index cache lives [env: ICECORE_CACHE_DIR]
    #[arg(long, global = true, value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,
    /// One JSON object on stdout; listings: one a line
    #[arg(long, global = true)]
    pub json: bool,
    /// Only errors and what was asked for
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// No progress display
    #[arg(long, global = true)]
    pub no_progress: bool,
    /// Memory for what goes through, at least 128MiB [env: ICECORE_MEMORY] [default: 256MiB]
    #[arg(long, global = true, value_name = "SIZE")]
    pub memory: Option<String>,
    /// Bytes a second to the repository, as in 10MiB
    #[arg(long, global = true, value_name = "RATE")]
    pub limit_upload: Option<String>,
    /// Bytes a second from the repository
    #[arg(long, global = true, value_name = "RATE")]
    pub limit_download: Option<String>,
}

#[derive(Subcommand)]
pub enum Command {
    /// Make a repository
    Init,
    /// Back up an etcd, a bucket or a directory, or etcd and objects as one snapshot
    Backup(Box<Backup>),
    /// List snapshots
    Snapshots {
        /// Only those with this tag
        #[arg(long, value_name = "TAG")]
        tag: Option<String>,
    },
    /// List the keys or objects at a point
    Ls {
        point: String,
        side: Side,
        #[arg(default_value = "")]
        prefix: OsString,
        /// Sizes, revisions and times too
        #[arg(short, long)]
        long: bool,
        #[command(flatten)]
        globs: Globs,
        /// PREFIX is in base64
        #[arg(long)]
        base64: bool,
        /// Every version and delete marker of the objects, the oldest first
        #[arg(long)]
        versions: bool,
        /// The settings of the bucket instead
        #[arg(long, conflicts_with = "versions")]
        settings: bool,
    },
    /// Write the value of a key or the body of an object to stdout
    Cat {
        point: String,
        side: Side,
        key: OsString,
        /// KEY is in base64
        #[arg(long)]
        base64: bool,
        /// This version of the object (ls --versions shows them)
        #[arg(long, value_name = "ID")]
        version: Option<String>,
    },
    /// Show what differs between two points
    Diff {
        before: String,
        after: String,
        side: Option<Side>,
        #[arg(default_value = "")]
        prefix: OsString,
        /// How much differs, and below which prefixes, instead of each key
        #[arg(long)]
        stat: bool,
        /// PREFIX is in base64
        #[arg(long)]
        base64: bool,
    },
    /// Show which revisions of etcd are covered, and where the gaps are
    Revisions,
    /// Show the history of a key across snapshots, also of what etcd has compacted since
    Log {
        #[arg(value_parser = ["etcd"])]
        side: String,
        key: OsString,
        /// KEY is a beginning: show all keys that begin with it; so is one that was never a key itself
        #[arg(long)]
        prefix: bool,
        /// Versions, sizes, and between which times it happened, too
        #[arg(short, long)]
        long: bool,
        /// KEY is in base64
        #[arg(long)]
        base64: bool,
    },
    /// Restore a point to a live etcd or a database file of it, and to a bucket or a directory
    Restore(Box<Restore>),
    /// Read every byte of a snapshot
    Verify(Box<Verify>),
    /// Check the repository
    Check {
        /// Read every pack to the last byte
        #[arg(long)]
        read_data: bool,
    },
    /// Show what the repository, or a snapshot, costs and holds
    Stats {
        /// What this snapshot costs and holds, and where most of it is
        point: Option<String>,
        /// A line for each snapshot: what it added, and what no other one holds
        #[arg(long, conflicts_with = "point")]
        snapshots: bool,
    },
    /// Forget snapshots: those that are named, or those that no rule keeps
    Forget(Box<Forget>),
    /// Look into what a Milvus held
    Milvus {
        /// The milvus.yaml that says the root path in the bucket; else it is found from the objects
        #[arg(long, global = true, value_name = "FILE")]
        milvus_config: Option<PathBuf>,
        #[command(subcommand)]
        command: Milvus,
    },
    /// Remove what no snapshot needs, beside running backups and restores
    Prune(Prune),
    /// Manage passphrases
    Key {
        #[command(subcommand)]
        command: Key,
    },
    /// Print shell completions
    Completions { shell: clap_complete::Shell },
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Side {
    Etcd,
    Objects,
}

#[derive(Subcommand)]
pub enum Milvus {
    /// List databases and collections: rows, segments, bytes, indexes
    Ls {
        point: String,
        /// Schemas, partitions, aliases, users and roles too
        #[arg(short, long)]
        long: bool,
    },
    /// Is every object there that live segments and indexes need?
    Check {
        /// What to check
        #[arg(required_unless_present = "all", value_name = "POINT")]
        points: Vec<String>,
        /// Every snapshot of the series, oldest first
        #[arg(long, conflicts_with = "points")]
        all: bool,
    },
    /// Show what differs between two snapshots: collections and rows, not keys
    Diff { before: String, after: String },
    /// Restore to empty servers and compare what is there afterwards with the snapshot
    Prove(Box<Restore>),
    /// Show the life of a collection across the snapshots of a series
    History {
        /// NAME or DATABASE.NAME, as it was in any of the snapshots
        collection: String,
    },
}

#[derive(Subcommand)]
pub enum Key {
    /// Add a passphrase
    Add {
        /// A file with the new passphrase [env: ICECORE_NEW_PASSPHRASE_FILE, ICECORE_NEW_PASSPHRASE]
        #[arg(long, value_name = "FILE")]
        new_passphrase_file: Option<PathBuf>,
    },
    /// Make a random passphrase, for a file that scripts read; it opens a repository faster than a chosen one
    Generate {
        /// A new file for it, readable by its owner only [default: print it]
        file: Option<PathBuf>,
    },
    /// List keys
    List,
    /// Remove a key
    Remove { id: String },
    /// Replace the passphrase in use by a new one
    Passwd {
        /// A file with the new passphrase [env: ICECORE_NEW_PASSPHRASE_FILE, ICECORE_NEW_PASSPHRASE]
        #[arg(long, value_name = "FILE")]
        new_passphrase_file: Option<PathBuf>,
    },
}

/// Globs over the keys of a listing.
#[derive(Args)]
pub struct Globs {
    /// Only keys that fit this glob; may be given several times
    ///
    /// In a glob, * and ? stay within one component, ** crosses them, [ab] and {a,b} choose. One without a
    /// slash fits the last component at any depth (*.log), one that begins with a slash only at the top
    /// (/tmp). What fits is meant with everything below it.
    #[arg(long, value_name = "GLOB")]
    pub include: Vec<String>,
    /// No keys that fit this glob, also of those included; may be given several times
    #[arg(long, value_name = "GLOB")]
    pub exclude: Vec<String>,
}

/// Rules keep the union of what each keeps. Without --series they are for every series, each by itself. Flags come
/// before [retention] in the configuration.
#[derive(Args)]
pub struct Forget {
    /// These snapshots, and no others
    #[arg(value_name = "POINT")]
    pub points: Vec<String>,
    #[command(flatten)]
    pub rules: Rules,
    /// Remove at once what then is needed by no snapshot
    #[arg(long)]
    pub prune: bool,
    #[command(flatten)]
    pub how: PruneHow,
    /// Only show what would be done
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Args)]
pub struct Rules {
    /// Keep all that are at most this much older than the newest, as in 3d, 2w or 1y6mo
    #[arg(long, value_name = "TIME", value_parser = parse_span)]
    pub keep_within: Option<jiff::Span>,
    /// Keep the last N
    #[arg(long, value_name = "N")]
    pub keep_last: Option<u64>,
    /// Keep the newest of each of the last N hours that have any
    #[arg(long, value_name = "N")]
    pub keep_hourly: Option<u64>,
    /// The same for days
    #[arg(long, value_name = "N")]
    pub keep_daily: Option<u64>,
    /// The same for weeks, from Monday on
    #[arg(long, value_name = "N")]
    pub keep_weekly: Option<u64>,
    /// The same for months
    #[arg(long, value_name = "N")]
    pub keep_monthly: Option<u64>,
    /// The same for years
    #[arg(long, value_name = "N")]
    pub keep_yearly: Option<u64>,
    /// Keep all with this tag, whatever --max-size says; may be given several times
    #[arg(long, value_name = "TAG")]
    pub keep_tag: Vec<String>,
    /// Drop the oldest until the whole repository fits into this size, as in 200GiB
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub max_size: Option<u64>,
    /// Keep the last N, whatever --max-size says [default: 1]
    #[arg(long, value_name = "N")]
    pub keep_at_least: Option<u64>,
}

#[derive(Args)]
pub struct Prune {
    #[command(flatten)]
    pub how: PruneHow,
    /// Only show what would be done
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Args)]
pub struct PruneHow {
    /// So much of all packs together may stay though nobody needs it; the most wasteful are rewritten [default: 5%]
    #[arg(long, value_name = "SHARE", value_parser = parse_share)]
    pub max_unused: Option<f64>,
    /// How long to wait for a backup that shows no progress before it is closed [default: 1h]
    ///
    /// Backups that began before the prune must end before anything is deleted. One whose process was killed is
    /// closed at once, where it ran on this machine with the same cache.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub patience: Option<Duration>,
    /// Do not wait for running backups: a later prune goes on
    #[arg(long, conflicts_with = "patience")]
    pub no_wait: bool,
}

#[derive(Args)]
pub struct Verify {
    /// What to read
    pub point: String,
    /// Compare with the living source too: exit 3 where it has moved on, 4 only for damage
    ///
    /// Keys of etcd are compared at the snapshot's revision while it still has it, else as it is now; objects by
    /// size, ETag and time in the listing. ETags that are MD5s are made again from the bytes stored. Every member of
    /// etcd that is named is asked for its hash of the revision (HashKV).
    #[arg(long)]
    pub against_source: bool,
    #[command(flatten)]
    pub sources: Sources,
}

#[derive(Args, Default, PartialEq)]
pub struct Sources {
    /// etcd: URLs of members
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    pub etcd: Vec<String>,
    /// Only keys that begin with this
    #[arg(long, value_name = "PREFIX")]
    pub etcd_prefix: Option<String>,
    /// etcd user [password: --etcd-password-file, env ICECORE_ETCD_PASSWORD]
    #[arg(long, value_name = "NAME")]
    pub etcd_user: Option<String>,
    /// A file with the etcd user's password
    #[arg(long, value_name = "FILE")]
    pub etcd_password_file: Option<PathBuf>,
    /// Certificate authorities of etcd (PEM)
    #[arg(long, value_name = "FILE")]
    pub etcd_ca: Option<PathBuf>,
    /// Client certificate for etcd (PEM)
    #[arg(long, value_name = "FILE")]
    pub etcd_cert: Option<PathBuf>,
    /// Key of the client certificate (PEM)
    #[arg(long, value_name = "FILE")]
    pub etcd_key: Option<PathBuf>,
    /// S3 server [credentials: env ICECORE_S3_ACCESS_KEY_ID, ICECORE_S3_SECRET_ACCESS_KEY, else the usual chain]
    #[arg(long, value_name = "ENDPOINT")]
    pub s3: Option<String>,
    /// The bucket
    #[arg(long)]
    pub bucket: Option<String>,
    /// Only objects whose keys begin with this
    #[arg(long)]
    pub prefix: Option<String>,
    /// Certificate authorities of the S3 server (PEM)
    #[arg(long, value_name = "FILE")]
    pub s3_ca: Option<PathBuf>,
    /// A directory, in place of a bucket
    #[arg(long, value_name = "PATH", conflicts_with_all = ["s3", "bucket", "prefix", "s3_ca"])]
    pub dir: Option<PathBuf>,
    /// Of directories with a valid CACHEDIR.TAG only the tag
    #[arg(long)]
    pub exclude_caches: bool,
    /// Nothing of other file systems that are mounted in the directory
    #[arg(long)]
    pub one_file_system: bool,
}

/// How etcd is read.
#[derive(Clone, Copy, ValueEnum)]
pub enum EtcdCapture {
    /// Its whole file, for the role root
    Snapshot,
    /// What changed since the last snapshot
    Watch,
    /// Its keys, for whoever may read them
    Range,
}

#[derive(Args)]
pub struct Backup {
    #[command(flatten)]
    pub sources: Sources,
    /// Only objects or files that fit this glob (see ls --help); may be given several times
    #[arg(long, value_name = "GLOB")]
    pub include: Vec<String>,
    /// No objects or files that fit this glob, also of those included; may be given several times
    #[arg(long, value_name = "GLOB")]
    pub exclude: Vec<String>,
    /// How etcd is read, where it is not to be chosen
    #[arg(long, value_name = "HOW")]
    pub etcd_capture: Option<EtcdCapture>,
    /// Every version and delete marker of the bucket, too
    #[arg(long)]
    pub versions: bool,
    /// A name for the snapshot
    #[arg(long)]
    pub name: Option<String>,
    /// A tag for the snapshot; may be given several times
    #[arg(long, value_name = "TAG")]
    pub tag: Vec<String>,
    /// Go on with another etcd, bucket or directory than the series was made from
    #[arg(long)]
    pub new_line: bool,
    /// Say so where the whole repository will be larger than this, as in 200GiB
    ///
    /// Said before anything is stored, as far as it can be foreseen, and again where it came true (exit code 3). The
    /// default is max-size in [retention]; `forget --prune` makes room.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub max_size: Option<u64>,
    /// Compare what was captured of etcd with the member's own hash of it (HashKV)
    ///
    /// The first backup of a whole etcd does so by itself.
    #[arg(long)]
    pub prove: bool,
    /// Warnings are failures: exit 1 instead of 3
    #[arg(long)]
    pub strict: bool,
    /// Where a Milvus is found: do not look whether every object that it needs is there
    #[arg(long)]
    pub no_milvus_check: bool,
    /// The milvus.yaml that says the bucket and the root path in it; else --bucket is needed, and the root path is found from the objects
    #[arg(long, value_name = "FILE")]
    pub milvus_config: Option<PathBuf>,
    /// Pause Milvus's garbage collector during the backup: its management port, http://host:9091 (2.4 and later)
    #[arg(long, value_name = "URL")]
    pub milvus_management: Option<String>,
    /// Flush every collection of Milvus before the backup, so that no row is in the message queue only: where its
    /// clients connect, http://host:19530
    #[arg(long, value_name = "URL")]
    pub milvus_flush: Option<String>,
    /// User of Milvus [password: --milvus-password-file, env ICECORE_MILVUS_PASSWORD]
    #[arg(long, value_name = "NAME")]
    pub milvus_user: Option<String>,
    /// A file with the password of Milvus's user
    #[arg(long, value_name = "FILE")]
    pub milvus_password_file: Option<PathBuf>,
    /// Certificate authorities of Milvus (PEM)
    #[arg(long, value_name = "FILE")]
    pub milvus_ca: Option<PathBuf>,
}

#[derive(Args)]
pub struct Restore {
    /// What to restore
    pub point: String,
    /// Only keys that begin with this
    #[arg(long, value_name = "PREFIX")]
    pub etcd_prefix: Option<OsString>,
    /// Only objects whose keys begin with this
    #[arg(long, value_name = "PREFIX")]
    pub objects_prefix: Option<String>,
    /// This key of etcd, too, or alone without --etcd-prefix and globs; may be given several times
    #[arg(long, value_name = "KEY")]
    pub etcd_key: Vec<OsString>,
    /// This object, too, or alone without --objects-prefix and globs; may be given several times
    #[arg(long, value_name = "KEY")]
    pub object: Vec<OsString>,
    /// Only what fits: etcd:GLOB for keys, objects:GLOB or GLOB for objects; may be given several times
    ///
    /// A GLOB without either is for keys where only etcd is restored. ls --help says what a glob is.
    #[arg(long, value_name = "GLOB")]
    pub include: Vec<String>,
    /// Not what fits, also of what is included; written as for --include
    #[arg(long, value_name = "GLOB")]
    pub exclude: Vec<String>,
    /// A live etcd
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    pub to_etcd: Vec<String>,
    /// etcd user [password: --to-etcd-password-file, env ICECORE_TO_ETCD_PASSWORD]
    #[arg(long, value_name = "NAME")]
    pub to_etcd_user: Option<String>,
    /// A file with the etcd user's password
    #[arg(long, value_name = "FILE")]
    pub to_etcd_password_file: Option<PathBuf>,
    /// Certificate authorities of etcd (PEM)
    #[arg(long, value_name = "FILE")]
    pub to_etcd_ca: Option<PathBuf>,
    /// Client certificate for etcd (PEM)
    #[arg(long, value_name = "FILE")]
    pub to_etcd_cert: Option<PathBuf>,
    /// Key of the client certificate (PEM)
    #[arg(long, value_name = "FILE")]
    pub to_etcd_key: Option<PathBuf>,
    /// A database file that etcdutl snapshot restore makes a member of: revisions, versions, leases as they were
    #[arg(long, value_name = "FILE")]
    pub to_etcd_file: Option<PathBuf>,
    /// The past in that file: snapshot (what the snapshot has by itself, the default), full (what all snapshots lead
    /// back to), none, or the revision after which it begins
    #[arg(long, value_name = "HISTORY", requires = "to_etcd_file")]
    pub history: Option<String>,
    /// No users and roles in that file: the restored etcd lets everybody in
    #[arg(long, requires = "to_etcd_file")]
    pub no_auth: bool,
    /// S3 server [credentials: env ICECORE_TO_S3_…, else ICECORE_S3_…, else the usual chain]
    #[arg(long, value_name = "ENDPOINT")]
    pub to_s3: Option<String>,
    /// The bucket
    #[arg(long, value_name = "BUCKET")]
    pub to_bucket: Option<String>,
    /// Goes before every object's key
    #[arg(long, value_name = "PREFIX")]
    pub to_prefix: Option<String>,
    /// Certificate authorities of the S3 server (PEM)
    #[arg(long, value_name = "FILE")]
    pub to_s3_ca: Option<PathBuf>,
    /// A directory: objects and files go directly below it; made where it is not there
    #[arg(long, value_name = "DIR", conflicts_with_all = ["to_s3", "to_bucket", "to_prefix", "to_s3_ca"])]
    pub to_dir: Option<PathBuf>,
    /// New beginnings: etcd:FROM=TO or objects:FROM=TO, the longest match counts; may be given several times
    #[arg(long, value_name = "MAP")]
    pub map: Vec<String>,
    /// Every version and delete marker of the objects, in their order, to a bucket that keeps versions
    #[arg(long)]
    pub versions: bool,
    /// Retention and legal hold of objects, too, to a bucket with object lock
    #[arg(long)]
    pub object_locks: bool,
    /// Policy, lifecycle and the other settings of the bucket, too
    #[arg(long)]
    pub bucket_settings: bool,
    /// Delete what the target has and the snapshot has not
    #[arg(long)]
    pub delete_extra: bool,
    /// Write over what differs in the target
    #[arg(long)]
    pub overwrite: bool,
    /// Restore what belonged to running servers of a Milvus too: <root>/meta/session/
    #[arg(long)]
    pub keep_sessions: bool,
    /// Milvus's message queue begins anew: its places in it become the queue's begin
    #[arg(long)]
    pub milvus_new_queue: bool,
    /// Only show what would be done
    #[arg(long)]
    pub dry_run: bool,
}
