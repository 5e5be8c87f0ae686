use std::fmt;

/// The stage that a connect has reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stage {
    /// Waiting for a token.
    Token,
    /// Resolving the host name.
    Resolve,
    /// Connecting over TCP.
    Dial,
    /// Negotiating encryption: PRELOGIN on Azure SQL, `SSLRequest` on PostgreSQL.
    Negotiate,
    /// The TLS handshake.
    Tls,
    /// Waiting for the login response, and on PostgreSQL for the check of `target_session_attrs`.
    Login,
    /// Connecting, the TLS handshake or the login: `mssql-tds` does not report which.
    #[cfg(feature = "unstable-mssql-tds")]
    Driver,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Token => "waiting for a token",
            Self::Resolve => "resolving the host name",
            Self::Dial => "connecting over TCP",
            Self::Negotiate => "negotiating encryption",
            Self::Tls => "in the TLS handshake",
            Self::Login => "waiting for the login response",
            #[cfg(feature = "unstable-mssql-tds")]
            Self::Driver => "connecting, in the TLS handshake or waiting for the login response",
        })
    }
}

impl Stage {
    /// Returns the end of a message: what to do if the time limit expired in this stage.
    pub(crate) fn advice(self) -> &'static str {
        match self {
            Self::Resolve => ": check this network's DNS, which does not respond",
            Self::Dial => {
                ": a firewall may drop the packets: check the server's network access and firewall, and that this network allows outgoing connections to the port"
            }
            _ => "",
        }
    }
}
