//! Errors as the user meets them: what failed, and what to do.

use std::process::ExitCode;

use icecore::fault::Kind;
use icecore::{backup, browse, check, forget, guard, prune, restore};
use icecore::{repository, selection, storage};
use serde_json::json;

use super::show::say;

/// A command that failed.
#[derive(Debug)]
pub struct Failure {
    kind: Kind,
    message: String,
}

impl Failure {
    pub fn new(kind: Kind, message: impl Into<String>) -> Failure {
        Failure { kind, message: message.into() }
    }

    pub fn usage(message: impl Into<String>) -> Failure {
        Failure::new(Kind::Usage, message)
    }

    fn exit_code(&self) -> u8 {
        match self.kind {
            Kind::Usage => 2,
            Kind::Damage => 4,
            Kind::SizeBound => 5,
            Kind::NoRepository => 10,
            Kind::WrongPassphrase => 12,
            Kind::Interrupted => 130,
            _ => 1,
        }
    }

    fn advice(&self) -> &'static str {
        match self.kind {
            Kind::Usage => "see `icecore --help`",
            Kind::NoRepository => "check -r or ICECORE_REPOSITORY, or make one with `icecore init`",
            Kind::RepositoryExists => "use it as it is, or choose another place with -r",
            Kind::WrongPassphrase => "check --passphrase-file, ICECORE_PASSPHRASE_FILE or ICECORE_PASSPHRASE",
            Kind::Unreachable => {
                "check that the address is right and the server runs, then run the command again"
            }
            Kind::Tls => "check http or https in the address, and the certificates (--etcd-ca, --s3-ca, ca=)",
            Kind::Denied => {
                "check the credentials (ICECORE_S3_…, ICECORE_TO_S3_… or ICECORE_REPOSITORY_ACCESS_KEY_ID and …_SECRET_ACCESS_KEY, \
                 --etcd-user) and what they permit; of a directory, its owner and whether its disk is mounted read-only"
            }
            Kind::NoBucket => "check the bucket's name, or create it",
            Kind::NoSpace => {
                "make room, then run the command again; what was stored is kept (--cache-dir moves what this machine keeps to another disk)"
            }
            Kind::Cache => {
                "name another place with --cache-dir; deleting what this machine keeps costs time only"
            }
            Kind::Exists => "choose another name",
            Kind::NotFound => "it may have been removed by another command; run the command again",
            Kind::PointNotFound => {
                "`icecore snapshots` shows what there is, `icecore revisions` which revisions of etcd are covered"
            }
            Kind::Ambiguous => "write more of the id",
            Kind::TargetNotEmpty => {
                "restore to an empty target, or allow changes with --overwrite and removals with --delete-extra"
            }
            Kind::NewerFormat => "use a newer icecore",
            Kind::Damage => "run `icecore check --read-data` to see what is damaged; nothing was changed",
            Kind::SourceChanged => {
                "use another --series for another system, or go on with it in this one with --new-line"
            }
            Kind::Busy => "run the command again",
            Kind::SizeBound => "give the repository more room, or keep less: see docs/operations.md",
            Kind::Interrupted => "run the command again to go on; nothing is lost",
            Kind::Failed => "",
        }
    }

    /// How the report of a command went that has done its work: whoever does not read it goes by the exit
    /// code, and whoever cannot have it is told what was done.
    pub fn of_report(done: &str, printed: std::io::Result<()>) -> Result<(), Failure> {
        match printed {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
            Err(error) => {
                let Failure { kind, message } = error.into();
                Err(Failure::new(kind, format!("{done}, but {message}")))
            }
            Ok(()) => Ok(()),
        }
    }

    /// Prints the error; gives the exit code.
    pub fn tell(&self, as_json: bool) -> ExitCode {
        if as_json {
            let error = json!({"code": self.kind.code(), "message": self.message, "help": self.advice()});
            say(&json!({ "error": error }).to_string());
        } else {
            say(&format!("icecore: {}", self.message));
            if !self.advice().is_empty() {
                say(&format!("  help: {}", self.advice()));
            }
        }
        ExitCode::from(self.exit_code())
    }
}

macro_rules! from_library {
    ($($error:ty),*) => {$(
        impl From<$error> for Failure {
            fn from(error: $error) -> Failure {
                Failure::new(error.kind(), error.to_string())
            }
        }
    )*};
}

from_library!(
    repository::Error,
    storage::Error,
    backup::Error,
    restore::Error,
    check::Error,
    prune::Error,
    forget::Error,
    guard::Error
);

macro_rules! from_usage {
    ($($error:ty),*) => {$(
        impl From<$error> for Failure {
            fn from(error: $error) -> Failure {
                Failure::usage(error.to_string())
            }
        }
    )*};
}

from_usage!(
    repository::BadPoint,
    storage::BadLocation,
    restore::BadHistory,
    restore::BadMap,
    selection::BadGlob
);

impl From<browse::Error> for Failure {
    fn from(error: browse::Error) -> Failure {
        match error {
            browse::Error::Output(error) => error.into(),
            browse::Error::Repository(error) => error.into(),
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        // Whoever read our output has enough.
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            std::process::exit(0);
        }
        let full =
            matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded);
        let kind = if full { Kind::NoSpace } else { Kind::Failed };
        Failure::new(kind, format!("cannot write the output: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_source_is_another_one_is_told_of_a_new_line() {
        let failure: Failure = backup::Error::SourceChanged("it went back".into()).into();
        assert!(failure.advice().contains("--new-line"));
    }
}
