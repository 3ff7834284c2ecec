//! The command line: arguments → options → one verb → report → printed.

mod access;
mod args;
mod bar;
mod catalog;
mod config;
mod failure;
mod forget;
mod history;
mod keys;
mod milvus;
mod prune;
mod read;
mod show;
mod stats;
mod verify;
mod versions;
mod write;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{CommandFactory, Parser};
use icecore::context::{Cancel, Context};
use icecore::fault::Kind;
use icecore::pool::cores;

use access::Settings;
use args::{Arguments, Command};
use failure::Failure;
use show::key_bytes;

/// How a command ended, when it did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Done,
    Warnings,
    Damage,
}

/// What every command gets.
struct Session {
    context: Context,
    settings: Settings,
    json: bool,
    quiet: bool,
}

pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return refuse(&error),
    };
    let json = arguments.global.json;
    match run(arguments) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Warnings) => ExitCode::from(3),
        Ok(Outcome::Damage) => ExitCode::from(4),
        Err(failure) => failure.tell(json),
    }
}

/// What cannot be parsed; help and version count as that.
fn refuse(error: &clap::Error) -> ExitCode {
    let json = std::env::args_os().any(|argument| argument == "--json");
    if error.use_stderr() && json {
        let text = error.to_string();
        let message = text.trim_start_matches("error: ").lines().next().unwrap_or_default();
        return Failure::usage(message).tell(json);
    }
    // Fails only where nobody reads it.
    let _ = error.print();
    ExitCode::from(if error.use_stderr() { 2 } else { 0 })
}

/// Written in one piece: the generator knows no errors.
fn completions(shell: clap_complete::Shell) -> Result<Outcome, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "icecore", &mut script);
    std::io::stdout().write_all(&script)?;
    Ok(Outcome::Done)
}

fn run(arguments: Arguments) -> Result<Outcome, Failure> {
    // Half of the cores for the network: the others cut, hash and encode, and what has more threads than cores only
    // waits to be woken.
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(cores().div_ceil(2)).enable_all().build();
    let runtime = runtime.map_err(|e| Failure::new(Kind::Failed, format!("cannot start: {e}")))?;
    let global = &arguments.global;
    let settings = Settings::load(global)?;
    let mut context = Context::system(runtime.handle().clone());
    context.memory = settings.memory;
    context.progress = match global.json || global.quiet || global.no_progress {
        true => context.progress,
        false if std::io::stderr().is_terminal() => Arc::new(bar::Bar::new()),
        false => Arc::new(bar::Lines::new()),
    };
    runtime.spawn(watch_signals(context.cancel.clone(), context.progress.clone()));
    let session = Session { context, settings, json: global.json, quiet: global.quiet };
    let outcome = dispatch(&session, arguments.command);
    session.context.progress.end();
    // Requests that nobody waits for any more must not hold the end up.
    runtime.shutdown_background();
    outcome
}

fn dispatch(session: &Session, command: Command) -> Result<Outcome, Failure> {
    match command {
        Command::Init => write::init(session),
        Command::Backup(arguments) => write::backup(session, &arguments),
        Command::Restore(arguments) => write::restore(session, &arguments),
        Command::Forget(arguments) => forget::forget(session, &arguments),
        Command::Snapshots { tag } => read::snapshots(session, tag.as_deref()),
        Command::Ls { versions: true, point, side, prefix, long, globs, base64, .. } => {
            versions::ls(session, &point, side, &key_bytes(&prefix, base64)?, long, globs)
        }
        Command::Ls { settings: true, point, side, .. } => versions::settings(session, &point, side),
        Command::Ls { point, side, prefix, long, globs, base64, .. } => {
            read::ls(session, &point, side, &key_bytes(&prefix, base64)?, long, globs)
        }
        Command::Cat { point, side, key, base64, version } => {
            read::cat(session, &point, side, &key_bytes(&key, base64)?, version.as_deref())
        }
        Command::Diff { before, after, side, prefix, stat, base64 } => {
            read::diff(session, (&before, &after), side, &key_bytes(&prefix, base64)?, stat)
        }
        Command::Revisions => history::revisions(session),
        Command::Log { side: _, key, prefix, long, base64 } => {
            history::log(session, &key_bytes(&key, base64)?, prefix, long)
        }
        Command::Verify(arguments) => verify::verify(session, &arguments),
        Command::Check { read_data } => verify::check(session, read_data),
        Command::Stats { point: Some(point), .. } => stats::snapshot(session, &point),
        Command::Stats { snapshots: true, .. } => stats::snapshots(session),
        Command::Stats { .. } => stats::repository(session),
        Command::Milvus { milvus_config, command } => {
            milvus::run(session, milvus_config.as_deref(), &command)
        }
        Command::Prune(arguments) => prune::prune(session, &arguments),
        Command::Key { command } => keys::run(session, &command),
        Command::Completions { shell } => completions(shell),
    }
}

/// The first signal asks to stop, the second does not ask.
async fn watch_signals(cancel: Cancel, progress: Arc<dyn icecore::progress::Progress>) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return;
    };
    for count in 0.. {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        if count > 0 {
            std::process::exit(130);
        }
        cancel.cancel();
        // A terminal that does not take it must not hold up what is being stored.
        let progress = progress.clone();
        tokio::task::spawn_blocking(move || {
            progress.note("stopping; what is stored is kept (press Ctrl-C again to stop at once)");
        });
    }
}
