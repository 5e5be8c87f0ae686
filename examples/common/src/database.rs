use entra_pool::{azure_sql, postgres, token::Identity};

use crate::{
    BoxError,
    settings::{AZURE_SQL, InvalidSetting, POSTGRES},
};

#[cfg(feature = "emulator")]
use {
    entra_pool::credential::{DefaultCredential, Environment},
    entra_pool_emulator::emulator::Emulator,
};

/// Where the database is: behind the connection string that is configured, or, where
/// none is, in the emulator, which then runs inside this process for as long as this
/// value lives.
pub struct Database(Place);

enum Place {
    Configured(String),
    #[cfg(feature = "emulator")]
    Emulated(Box<Emulated>),
}

/// The emulator, and its user-assigned identity, which both databases know.
#[cfg(feature = "emulator")]
struct Emulated {
    emulator: Emulator,
    identity: Identity,
}

impl Database {
    /// The database of this connection string, else an emulated one, empty as yet.
    ///
    /// # Errors
    ///
    /// The emulator does not start. Without the feature `emulator`: there is no
    /// connection string.
    pub async fn open(connection_string: Option<String>) -> Result<Self, BoxError> {
        match connection_string {
            Some(configured) => Ok(Self(Place::Configured(configured))),
            #[cfg(feature = "emulator")]
            None => {
                let emulator = Emulator::start().await?;
                let environment = Environment::from_pairs(emulator.env());
                let identity =
                    Identity::new(DefaultCredential::new().environment(environment).build()?);
                tracing::warn!(
                    "no database is configured: the emulator runs in this process, and its tables go with it"
                );
                Ok(Self(Place::Emulated(Box::new(Emulated { emulator, identity }))))
            }
            #[cfg(not(feature = "emulator"))]
            None => {
                Err("no database is configured, and this was built without the emulator".into())
            }
        }
    }

    /// A connector to Azure SQL.
    ///
    /// # Errors
    ///
    /// As [`azure_sql::connector`].
    pub fn azure_sql(&self) -> Result<azure_sql::Connector, InvalidSetting> {
        self.connect_azure_sql().map_err(|error| InvalidSetting::new(AZURE_SQL, error))
    }

    fn connect_azure_sql(&self) -> Result<azure_sql::Connector, azure_sql::Error> {
        match &self.0 {
            Place::Configured(string) => azure_sql::connector(string),
            #[cfg(feature = "emulator")]
            Place::Emulated(emulated) => {
                let config: azure_sql::Config = emulated.emulator.azure_sql_string().parse()?;
                let tokens = emulated.identity.tokens(config.token_scope()?);
                azure_sql::Connector::new(config, tokens)
            }
        }
    }

    /// A connector to PostgreSQL.
    ///
    /// # Errors
    ///
    /// As [`postgres::connector`].
    pub fn postgres(&self) -> Result<postgres::Connector, InvalidSetting> {
        match &self.0 {
            Place::Configured(url) => {
                postgres::connector(url).map_err(|error| InvalidSetting::new(POSTGRES, error))
            }
            #[cfg(feature = "emulator")]
            Place::Emulated(_) => Ok(self.postgres_and_identity()?.0),
        }
    }

    /// A connector to PostgreSQL, and the identity that it logs in with, for what else
    /// the application uses in Azure; of a user-assigned one, `AZURE_CLIENT_ID` tells.
    ///
    /// # Errors
    ///
    /// As [`postgres::connector`].
    pub fn postgres_and_identity(&self) -> Result<(postgres::Connector, Identity), InvalidSetting> {
        self.connect_postgres().map_err(|error| InvalidSetting::new(POSTGRES, error))
    }

    fn connect_postgres(&self) -> Result<(postgres::Connector, Identity), postgres::Error> {
        let (config, identity) = match &self.0 {
            Place::Configured(url) => {
                let (config, credential) = postgres::Config::parse_with_credential(url)?;
                (config, Identity::new(credential))
            }
            #[cfg(feature = "emulator")]
            Place::Emulated(emulated) => {
                (emulated.emulator.postgres_url().parse()?, emulated.identity.clone())
            }
        };
        let tokens = identity.tokens(config.token_scope()?);
        Ok((postgres::Connector::new(config, tokens)?, identity))
    }

    /// Whether it is emulated, and so to be filled by the application.
    #[must_use]
    pub fn is_emulated(&self) -> bool {
        !matches!(self.0, Place::Configured(_))
    }

    /// Runs the set-up script, if this is emulated. In Azure somebody with more
    /// rights than the application does that, once.
    ///
    /// # Errors
    ///
    /// The script fails.
    pub async fn set_up_azure_sql(
        &self,
        pool: &azure_sql::Pool,
        script: &str,
    ) -> Result<(), BoxError> {
        if self.is_emulated() {
            pool.get().await?.simple_query(script).await?.into_results().await?;
        }
        Ok(())
    }

    /// As [`set_up_azure_sql`](Self::set_up_azure_sql), for PostgreSQL.
    ///
    /// # Errors
    ///
    /// The script fails.
    pub async fn set_up_postgres(
        &self,
        pool: &postgres::Pool,
        script: &str,
    ) -> Result<(), BoxError> {
        if self.is_emulated() {
            pool.get().await.map_err(postgres::Error::from)?.batch_execute(script).await?;
        }
        Ok(())
    }
}
