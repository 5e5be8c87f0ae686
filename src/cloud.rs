//! The Azure clouds: which host belongs to which, what token it wants, and who
//! gives it.

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
    /// Where applications (service principals) of this cloud ask for tokens, if
    /// `AZURE_AUTHORITY_HOST` does not say otherwise. Managed identities and the
    /// command-line tools know by themselves.
    #[cfg(any(test, feature = "azure-identity"))]
    pub(crate) fn authority_host(self) -> &'static str {
        match self {
            Self::Public => "https://login.microsoftonline.com",
            Self::UsGovernment => "https://login.microsoftonline.us",
            Self::China => "https://login.chinacloudapi.cn",
        }
    }
}
