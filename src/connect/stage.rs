use std::fmt;

/// The stage that a connect has reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stage {
    /// Waiting for the identity's token.
    Token,
    /// Resolving the host's name.
    Resolve,
    /// Connecting over TCP.
    Dial,
    /// Agreeing on TLS with the server: PRELOGIN on Azure SQL, `SSLRequest` on PostgreSQL.
    Negotiate,
    /// The TLS handshake.
    Tls,
    /// Waiting for the response to the login, and on PostgreSQL for what
    /// `target_session_attrs` asks.
    Login,
    /// Connecting, the TLS handshake or the login: `mssql-tds` does not report which.
    #[cfg(feature = "unstable-mssql-tds")]
    Driver,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Token => "waiting for a token",
            Self::Resolve => "resolving the name",
            Self::Dial => "connecting over TCP",
            Self::Negotiate => "negotiating encryption",
            Self::Tls => "in the TLS handshake",
            Self::Login => "waiting for the response to the login",
            #[cfg(feature = "unstable-mssql-tds")]
            Self::Driver => {
                "connecting, in the TLS handshake or waiting for the response to the login"
            }
        })
    }
}

impl Stage {
    /// What to do where the time limit passed in this stage, for the end of a message.
    pub(crate) fn advice(self) -> &'static str {
        match self {
            Self::Resolve => ": check the DNS of this network, which does not respond",
            Self::Dial => {
                ": a firewall may drop the packets: check the server's network access and firewall, and that this network allows outgoing connections to the port"
            }
            _ => "",
        }
    }
}
