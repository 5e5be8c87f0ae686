//! Settings that Service Connector and App Service store in environment variables.

use zeroize::Zeroizing;

use super::{Mistake, Pairs};
use crate::credential::Environment;

/// Returns the connection string in the variable `name`, otherwise that in the only variable that
/// begins with one of the `prefixes`, which App Service uses.
pub(crate) fn connection_string<'a>(
    environment: &'a Environment,
    name: &'static str,
    prefixes: &[&str],
) -> Result<Option<&'a str>, Mistake> {
    let found = match environment.get(name) {
        Some(_) => vec![name],
        None => prefixes.iter().flat_map(|prefix| environment.names(prefix)).collect(),
    };
    match found[..] {
        [] => Ok(None),
        [variable] => {
            tracing::info!(variable, "reading the connection string of the environment");
            Ok(environment.get(variable))
        }
        [first, ..] => {
            let problem = format!(
                "is one of several connection strings ({}): set {name}, or pass one of them to pool",
                found.join(", ")
            );
            Err(Mistake::Value(first.to_owned(), problem))
        }
    }
}

/// Returns the settings of separate `variables`, which are pairs of a name and a keyword.
pub(crate) fn settings(
    environment: &Environment,
    variables: &[(&'static str, &'static str)],
) -> Pairs {
    let set = variables
        .iter()
        .filter_map(|(variable, keyword)| Some((*variable, *keyword, environment.get(variable)?)));
    let (mut names, mut pairs) = (Vec::new(), Pairs::new());
    for (variable, keyword, value) in set {
        names.push(variable);
        // Kubernetes keeps the line break at the end of a file.
        pairs.push((keyword.to_owned(), Zeroizing::new(value.trim().to_owned())));
    }
    if !names.is_empty() {
        tracing::info!(variables = names.join(", "), "reading the settings of the environment");
    }
    pairs
}
