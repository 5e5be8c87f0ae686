//! The Azure clouds: the hosts of each cloud, the scope of their tokens, and the authority that
//! issues the tokens.

#[cfg(any(feature = "azure-sql", feature = "postgres"))]
mod hosts;

#[cfg(any(feature = "azure-sql", feature = "postgres"))]
pub(crate) use hosts::*;

/// An Azure cloud.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cloud {
    /// The public cloud.
    Public,
    /// Azure Government (United States).
    UsGovernment,
    /// Azure operated by 21Vianet (China).
    China,
}

impl Cloud {
    /// Returns the authority for tokens of applications (service principals) in this cloud, unless
    /// `AZURE_AUTHORITY_HOST` is set. Managed identities and the command-line tools do not use it.
    #[cfg(any(test, feature = "azure-identity"))]
    pub(crate) fn authority_host(self) -> &'static str {
        match self {
            Self::Public => "https://login.microsoftonline.com",
            Self::UsGovernment => "https://login.microsoftonline.us",
            Self::China => "https://login.chinacloudapi.cn",
        }
    }
}
