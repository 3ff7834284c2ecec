//! The kinds of things that go wrong, as a script or the command line's advice needs to tell them
//! apart. Each room has its own error type; each of those names the kind.

/// What kind of failure an error is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The arguments or the configuration cannot be used.
    Usage,
    /// No repository stands at the given place.
    NoRepository,
    /// A repository stands there already.
    RepositoryExists,
    /// No key of the repository opens with the passphrase.
    WrongPassphrase,
    /// The server does not answer, or not in time.
    Unreachable,
    /// The server's certificate or the client's was not accepted.
    Tls,
    /// The server answered, and refused the credentials or the permission.
    Denied,
    /// The bucket does not exist.
    NoBucket,
    /// No room on a disk, or a quota is used up.
    NoSpace,
    /// A file or directory that this machine keeps for icecore cannot be used.
    Cache,
    /// A name is taken.
    Exists,
    /// A file or an object is not there.
    NotFound,
    /// A snapshot, revision or time that is not there.
    PointNotFound,
    /// Several snapshots fit what the user wrote.
    Ambiguous,
    /// The restore's target holds something else.
    TargetNotEmpty,
    /// Written by a newer version of icecore.
    NewerFormat,
    /// Bytes that should be there are not, or are not what was written.
    Damage,
    /// The source is not the one that the series was made from.
    SourceChanged,
    /// Another writer stands in the way.
    Busy,
    /// What must be kept is more than the size bound allows.
    SizeBound,
    /// The user asked to stop.
    Interrupted,
    /// Anything else.
    Failed,
}

impl Kind {
    /// The stable word for scripts (`error.code`).
    pub fn code(self) -> &'static str {
        match self {
            Kind::Usage => "usage",
            Kind::NoRepository => "no_repository",
            Kind::RepositoryExists => "repository_exists",
            Kind::WrongPassphrase => "wrong_passphrase",
            Kind::Unreachable => "unreachable",
            Kind::Tls => "tls",
            Kind::Denied => "denied",
            Kind::NoBucket => "no_bucket",
            Kind::NoSpace => "no_space",
            Kind::Cache => "cache",
            Kind::Exists => "exists",
            Kind::NotFound => "not_found",
            Kind::PointNotFound => "point_not_found",
            Kind::Ambiguous => "ambiguous",
            Kind::TargetNotEmpty => "target_not_empty",
            Kind::NewerFormat => "newer_format",
            Kind::Damage => "damage",
            Kind::SourceChanged => "source_changed",
            Kind::Busy => "busy",
            Kind::SizeBound => "size_bound",
            Kind::Interrupted => "interrupted",
            Kind::Failed => "failed",
        }
    }
}

/// The kind of a failure with what this machine keeps, by what the operating system says.
pub fn on_this_machine(said: &str) -> Kind {
    let full = ["No space left", "no space left", "uota exceeded"].iter().any(|words| said.contains(words));
    if full { Kind::NoSpace } else { Kind::Cache }
}

/// An error and its causes in one line, without repeating what contains what.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let part = error.to_string();
        if !part.is_empty() && !parts.iter().any(|p| p.contains(&part)) {
            parts.push(part);
        }
        next = error.source();
    }
    parts.join(": ")
}
