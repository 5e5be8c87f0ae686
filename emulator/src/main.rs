//! Runs the stand-ins until Ctrl-C and prints what to connect with.

use std::{io, pin::pin, process::ExitCode, task::Poll};

use entra_pool_emulator::emulator::{Emulator, EmulatorOptions};

const USAGE: &str = "\
Local stand-ins for Azure's identity endpoint, Azure SQL and Azure Database for
PostgreSQL.

Usage: entra-pool-emulator [--identity-port PORT] [--azure-sql-port PORT]
                           [--postgres-port PORT]

Without a port, or with 0, a free one is taken.";

#[tokio::main]
async fn main() -> ExitCode {
    let options = match options(std::env::args().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("error: {error}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// `None` if help is asked for.
fn options(mut arguments: impl Iterator<Item = String>) -> Result<Option<EmulatorOptions>, String> {
    let mut options = EmulatorOptions { with_samples: true, ..Default::default() };
    while let Some(argument) = arguments.next() {
        let (name, value) = match argument.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (argument, None),
        };
        let port = match name.as_str() {
            "--identity-port" => &mut options.identity_port,
            "--azure-sql-port" => &mut options.azure_sql_port,
            "--postgres-port" => &mut options.postgres_port,
            "--help" | "-h" => return Ok(None),
            other => return Err(format!("unknown argument '{other}'")),
        };
        let value = value.or_else(|| arguments.next());
        let value = value.ok_or_else(|| format!("{name} wants a port"))?;
        *port = value.parse().map_err(|_| format!("{name}: '{value}' is no port"))?;
    }
    Ok(Some(options))
}

async fn run(options: EmulatorOptions) -> io::Result<()> {
    let mut stop = pin!(tokio::signal::ctrl_c());
    // Ctrl-C is heard from here on, not from when everything is printed.
    if let Poll::Ready(stopped) = futures::poll!(stop.as_mut()) {
        return stopped;
    }
    let emulator = Emulator::start(options).await?;
    println!("# The identity endpoint is at {}", emulator.identity().imds_endpoint());
    for (name, value) in emulator.env() {
        println!("export {name}='{value}'");
    }
    println!("# Certificates are verified with");
    println!("export EMULATOR_CA='{}'", emulator.ca_path().display());
    println!("# Azure SQL, with a table TestTable");
    println!(
        "export EMULATOR_AZURE_SQL='{};Authentication=Active Directory Default'",
        emulator.azure_sql_string()
    );
    println!("# Azure Database for PostgreSQL, with a table restaurant");
    println!("export EMULATOR_POSTGRES='{}'", emulator.postgres_url());
    println!("# Ctrl-C stops everything and removes its files.");
    stop.await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Option<EmulatorOptions>, String> {
        options(arguments.iter().map(ToString::to_string))
    }

    #[test]
    fn ports_are_read_and_the_rest_is_refused() {
        let expected = EmulatorOptions {
            identity_port: 1,
            azure_sql_port: 2,
            postgres_port: 3,
            with_samples: true,
        };
        let given = ["--identity-port", "1", "--azure-sql-port", "2", "--postgres-port=3"];
        assert_eq!(parse(&given), Ok(Some(expected)));
        let default = EmulatorOptions { with_samples: true, ..Default::default() };
        assert_eq!(parse(&[]), Ok(Some(default)));
        assert_eq!(parse(&["--help"]), Ok(None));
        for (arguments, error) in [
            (&["--port", "1"][..], "unknown argument '--port'"),
            (&["--identity-port"], "--identity-port wants a port"),
            (&["--postgres-port", "many"], "--postgres-port: 'many' is no port"),
        ] {
            assert_eq!(parse(arguments), Err(error.to_owned()));
        }
    }
}
