use std::{
    error::Error,
    io::{self, IsTerminal},
    iter::successors,
    process::ExitCode,
};

use tracing_subscriber::{EnvFilter, filter::LevelFilter};

use crate::{BoxError, settings};

/// Runs `application` and logs to the standard error. If it fails, the last line of the log names
/// the cause, and the exit status is 1.
///
/// `RUST_LOG` is the log's filter (default `info`). `LOG_FORMAT=json` writes one JSON object per
/// line, a format that Azure Monitor and other services read.
pub async fn run(application: impl Future<Output = Result<(), BoxError>>) -> ExitCode {
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into());
    let log =
        tracing_subscriber::fmt().with_env_filter(filter.from_env_lossy()).with_writer(io::stderr);
    let format = settings::optional::<String>("LOG_FORMAT");
    if matches!(&format, Ok(Some(format)) if format == "json") {
        log.json().init();
    } else {
        log.with_ansi(io::stderr().is_terminal()).init();
    }
    let outcome = match format.map(Option::unwrap_or_default).as_deref() {
        Ok("" | "json" | "text") => application.await,
        _ => Err(settings::invalid("LOG_FORMAT", "use text or json")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = causes(&*error).join(": "), "stopped with an error");
            ExitCode::FAILURE
        }
    }
}

/// The messages of an error and its causes, without those that the previous message repeats. (The
/// JSON of tracing-subscriber leaves out the causes, which contain the remedy.)
pub(crate) fn causes(error: &(dyn Error + 'static)) -> Vec<String> {
    let mut texts: Vec<String> = Vec::new();
    for text in successors(Some(error), |error| (*error).source()).map(ToString::to_string) {
        if !texts.iter().any(|longer| longer.contains(&text)) {
            texts.push(text);
        }
    }
    texts
}
