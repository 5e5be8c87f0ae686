use std::{path::PathBuf, time::Duration};

use proptest::{collection::vec, option, prelude::*};

use super::{identity::NamedIdentity, keywords::KEYWORDS, *};
use crate::credential::Member;

const STRING: &str = "AZURE_SQL_CONNECTIONSTRING";
const AZURE: &str = "Server=a.database.windows.net;";

fn config(text: &str) -> Config {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn shop() -> Config {
    Config::new("shop.database.windows.net")
}

fn identity(text: &str) -> NamedIdentity {
    read::parse(text, false).unwrap_or_else(|error| panic!("{text}: {error}")).1
}

/// Settings that only a string can set.
impl Config {
    fn workstation_id(mut self, name: impl Into<String>) -> Self {
        self.workstation_id = Some(name.into());
        self
    }

    fn multi_subnet_failover(mut self, at_once: bool) -> Self {
        self.multi_subnet_failover = at_once;
        self
    }

    fn packet_size(mut self, bytes: u32) -> Self {
        self.packet_size = Some(bytes);
        self
    }
}

#[test]
fn the_defaults_are_those_of_the_table() {
    let config = config("Server=tcp:shop.database.windows.net;Database=orders");
    assert_eq!((config.host.as_str(), config.port), ("shop.database.windows.net", 1433));
    assert_eq!(config.database.as_deref(), Some("orders"));
    assert_eq!((config.encrypt, &config.trust), (Encrypt::Mandatory, &Trust::Platform));
    assert_eq!(config.application_name, "entra-pool");
    assert!(!config.read_only && !config.multi_subnet_failover);
    assert_eq!(config.connect_timeout, Duration::from_secs(15));
    assert_eq!(config.command_timeout, Some(Duration::from_secs(30)));
    assert_eq!((config.retry_count, config.retry_interval), (None, None));
    assert_eq!((config.max_size, config.min_size), (None, 0));
    assert_eq!(config.max_lifetime, Some(Duration::from_secs(3600)));
    assert_eq!((config.idle_timeout, config.recycling), (None, Recycling::Clean));
    assert_eq!(config.token_scope(), Ok(Scope::AZURE_SQL));
    assert!(identity("Server=tcp:shop.database.windows.net").refuse_other().is_ok());
    assert_eq!(config.to_string(), "Server=tcp:shop.database.windows.net,1433;Database=orders");
}

#[test]
#[allow(clippy::too_many_lines)] // The function is a table.
fn all_forms_of_a_string_parse_to_the_same_configuration() {
    let second = Duration::from_secs(1);
    for (ado_net, jdbc, url, built) in [
        (
            "Server=tcp:shop.database.windows.net",
            "jdbc:sqlserver://shop.database.windows.net",
            "mssql://shop.database.windows.net",
            shop(),
        ),
        (
            "Data Source=tcp:shop.database.windows.net,1500;Initial Catalog=Bücher und mehr",
            "jdbc:sqlserver://shop.database.windows.net:1500;databaseName=Bücher und mehr",
            "sqlserver://shop.database.windows.net:1500/B%C3%BCcher%20und%20mehr",
            shop().port(1500).database("Bücher und mehr"),
        ),
        (
            "Addr=::1,1500;Entra Scope=api://x/.default",
            "jdbc:sqlserver://[::1]:1500;entraScope=api://x/.default",
            "mssql://[::1]:1500?entra+scope=api%3A%2F%2Fx%2F.default",
            Config::new("::1").port(1500).scope(Scope::new("api://x/.default").unwrap()),
        ),
        (
            "Server=shop.database.windows.net;Encrypt=Strict;TrustServerCertificate=no;\
             Trust Server Certificate CA=ca.pem;HostNameInCertificate=sql.example",
            "jdbc:sqlserver://shop.database.windows.net;encrypt=strict;\
             trustServerCertificate=false;trustServerCertificateCA=ca.pem;\
             hostNameInCertificate=sql.example",
            "mssql://shop.database.windows.net?encrypt=strict&TrustServerCertificate=f\
             &certificate=ca.pem&hostnameincertificate=sql.example",
            shop().encrypt(Encrypt::Strict).ca_file("ca.pem").host_in_certificate("sql.example"),
        ),
        (
            r"Server=shop.database.windows.net;Encrypt=yes;ServerCertificate=C:\db.pem",
            r"jdbc:sqlserver://shop.database.windows.net;encrypt=true;serverCertificate=C:\db.pem",
            "mssql://shop.database.windows.net?encrypt=1&servercertificate=C:%5Cdb.pem",
            shop().encrypt(Encrypt::Mandatory).server_certificate(r"C:\db.pem"),
        ),
        (
            "Server=shop.database.windows.net;App=shop;Workstation ID=till;Application Intent=readonly;\
             Packet Size=8000;Multi Subnet Failover=True",
            "jdbc:sqlserver://shop.database.windows.net;applicationName=shop;workstationID=till;\
             applicationIntent=ReadOnly;packetSize=8000;multiSubnetFailover=true",
            "mssql://shop.database.windows.net?app+name=shop&workstation+id=till\
             &ApplicationIntent=ReadOnly&packet+size=8000&multisubnetfailover=t",
            shop()
                .application_name("shop")
                .workstation_id("till")
                .read_only(true)
                .packet_size(8000)
                .multi_subnet_failover(true),
        ),
        (
            "Server=shop.database.windows.net;Timeout=3;command timeout=0;ConnectRetryCount=0;\
             Connect Retry Interval=60;Connection Lifetime=0",
            "jdbc:sqlserver://shop.database.windows.net;loginTimeout=3;queryTimeout=-1;\
             connectRetryCount=0;connectRetryInterval=60;loadBalanceTimeout=0",
            "mssql://shop.database.windows.net?connection+timeout=3&command+timeout=0.0\
             &connectretrycount=0&connectretryinterval=60&connectionlifetime=0",
            shop()
                .connect_timeout(3 * second)
                .command_timeout(None)
                .retry_count(0)
                .retry_interval(60 * second)
                .max_lifetime(Duration::ZERO),
        ),
        (
            "Server=shop.database.windows.net;Max Pool Size=7;Min Pool Size=7;\
             Load Balance Timeout=60;Allow Routing To=SQL.example, .10.0.0.1.",
            "jdbc:sqlserver://shop.database.windows.net;maxPoolSize=7;minPoolSize=7;\
             connectionLifetime=60;allowRoutingTo=sql.example,10.0.0.1",
            "mssql://shop.database.windows.net?max+pool+size=7&min+pool+size=7\
             &load+balance+timeout=60&allow+routing+to=sql.example,10.0.0.1",
            shop()
                .max_size(7)
                .min_size(7)
                .max_lifetime(60 * second)
                .allow_routing_to("sql.example")
                .allow_routing_to("10.0.0.1."),
        ),
    ] {
        for text in [ado_net, jdbc, url] {
            assert_eq!(config(text), built, "{text}");
        }
    }
}

#[test]
fn all_forms_of_a_string_select_the_same_identity() {
    for (ado_net, jdbc, url, authentication, parts) in [
        (
            "Server=a.database.windows.net;Authentication=Active Directory MSI;UID=3f",
            "jdbc:sqlserver://;serverName=a.database.windows.net;\
             authentication=ActiveDirectoryManagedIdentity;msiClientId=3f",
            "sqlserver://3f@a.database.windows.net?fedauth=ActiveDirectoryMSI",
            Member::ManagedIdentity,
            [Some("3f"), None, None],
        ),
        (
            "Server=a.database.windows.net;Authentication=Active Directory Service Principal;\
             User Id=3f@contoso;Password='a;''b'",
            "jdbc:sqlserver://a.database.windows.net;\
             authentication=ActiveDirectoryServicePrincipal;AADSecurePrincipalId=3f@contoso;\
             AADSecurePrincipalSecret={a;'b}",
            "sqlserver://3f%40contoso:a%3B'b@a.database.windows.net\
             ?fedauth=ActiveDirectoryApplication",
            Member::ServicePrincipal,
            [Some("3f"), Some("contoso"), Some("a;'b")],
        ),
    ] {
        for text in [ado_net, jdbc, url] {
            let named = identity(text);
            assert_eq!(named.authentication, Some(authentication), "{text}");
            let secret = named.client_secret.as_ref().map(|secret| secret.as_str());
            let found = [named.client_id.as_deref(), named.tenant.as_deref(), secret];
            assert_eq!(found, parts, "{text}");
            let error = text.parse::<Config>().unwrap_err();
            assert!(matches!(error, ConfigError::ConflictingIdentity { .. }), "{error:?}");
        }
    }
}

#[test]
fn keywords_without_effect_are_ignored() {
    for harmless in [
        "Pooling=true;Persist Security Info=True;MultipleActiveResultSets=yes;Enlist=True",
        "Driver={ODBC Driver 18 for SQL Server};MARS_Connection=yes;Pool Blocking Period=AlwaysBlock",
        "Integrated Security=false;Network Library=dbmssocn;Type System Version=SQL Server 2012",
        "Column Encryption Setting=Disabled;Pool Blocking Period=NeverBlock;Async=true",
        "lastUpdateCount=true;sslProtocol=TLSv1.2;lockTimeout=-1;fips=false;selectMethod=cursor;\
         sendStringParametersAsUnicode=false",
        "log=63;keepAlive=60;dial timeout=3;tlsmin=1.2;protocol=tcp;disableRetry=true",
        "Database=;Failover Partner=;Password='';loginTimeout=0",
        "Authentication=NotSpecified",
    ] {
        assert_eq!(config(&format!("{AZURE}{harmless}")), config(AZURE), "{harmless}");
    }
}

#[test]
fn sqlclients_names_for_this_machine_are_accepted() {
    for name in [".", "(local)", "tcp:(local)", "localhost"] {
        let config = config(&format!("Server={name};Entra Scope=api://x/.default"));
        assert_eq!(config.host, "localhost", "{name}");
    }
}

#[test]
fn errors_name_keywords_as_written_and_contain_no_secret() {
    let principal = "Authentication=Active Directory Service Principal;";
    for (behind_server, expected) in [
        ("hunter2", "keyword number 2"),
        ("Password=hunter2", "'Password' is not accepted"),
        ("Pwd='hunter2'", "'Pwd' is not accepted"),
        ("Pwd={your_password};User={your_user}", "'Pwd' is not accepted"),
        ("User={your_user};Pwd=", "'User' has a template's placeholder"),
        (&format!("{principal}Password=<hunter2>"), "'Password' has a template's placeholder"),
        ("Password=x;hunter2=y", "not shown because it may be a piece of a password"),
        ("{secret: hunter2}=1", "not shown because it may be a piece of a password"),
        ("accessToken=hunter2", "'accessToken' is a token, which would expire"),
        ("Database='x\0'", "'Database' has a NUL character"),
        ("Entra Tenant=x", "'Entra Tenant' is for"),
        ("Entra CLI Timeout=0", "'Entra CLI Timeout' must be a number of seconds, 1 or more"),
        (&format!("{principal}User Id=@x"), "'User Id' must be CLIENT_ID"),
        (&format!("{principal}UID=x@y;Entra Tenant=z"), "'UID' and 'Entra Tenant' exclude"),
        ("fedauth=ActiveDirectoryAzCli;UID=x", "'UID' has no effect"),
        ("Authentication=ActiveDirectoryEnvironment;User=x", "'User' has no effect"),
        ("Encrypt=False", "'Encrypt' must be True"),
        ("encrypt=optional", "'encrypt' must be True"),
        ("encrypt=disable", "'encrypt' must be True"),
        ("TrustServerCertificate=True", "'TrustServerCertificate' must be False"),
        ("trustServerCertificate=maybe", "'trustServerCertificate' must be False"),
        ("Authentication=SqlPassword", "'Authentication' is a login with a password"),
        ("fedauth=hunter2", "'fedauth' must be one of"),
        ("Authentication=Active Directory Interactive", "az login"),
        ("Databse=x", "unknown keyword 'Databse': did you mean 'Database'?"),
        ("Colour=red", "unknown keyword 'Colour'"),
        ("Initial Catalog=x;database=y", "'Initial Catalog=x' and 'database=y' exclude each other"),
        ("database=x;database=x", "'database=x' is given twice"),
        ("Server=b", "'Server=a.database.windows.net' and 'Server=b' exclude each other"),
        ("Pooling=true;pooling=true", "'pooling=true' is given twice"),
        ("Port=1;portNumber=2", "'Port=1' and 'portNumber=2' exclude each other"),
        ("Password=hunter2;Pwd=hunter3", "'Password' and 'Pwd' exclude each other"),
        ("Port=0", "'Port' must be a number from 1 to 65535"),
        ("Port=70000", "'Port' must be a number from 1 to 65535"),
        ("Connect Timeout=soon", "'Connect Timeout' must be a number"),
        ("loginTimeout=-1", "'loginTimeout' must be a number"),
        ("Connect Timeout=0", "0 would wait for ever"),
        ("Timeout=2147483648", "'Timeout' must be a number"),
        ("Command Timeout=-2", "'Command Timeout' must be a number"),
        ("packetSize=511", "'packetSize' must be a number of bytes from 512 to 32767"),
        ("Packet Size=32768", "'Packet Size' must be"),
        ("ConnectRetryCount=256", "'ConnectRetryCount' must be a number from 0 to 255"),
        ("ConnectRetryInterval=0", "'ConnectRetryInterval' must be a number of seconds from 1"),
        ("ConnectRetryInterval=61", "'ConnectRetryInterval' must be"),
        ("Max Pool Size=0", "'Max Pool Size' must be"),
        ("Max Pool Size=32768", "'Max Pool Size' must be"),
        ("Min Pool Size=-1", "'Min Pool Size' must be"),
        ("Min Pool Size=3;Max Pool Size=2", "'Min Pool Size' is more than Max Pool Size"),
        ("ApplicationIntent=Write", "'ApplicationIntent' must be ReadWrite or ReadOnly"),
        ("MultiSubnetFailover=maybe", "'MultiSubnetFailover' must be True or False"),
        ("HostNameInCertificate=a b", "'HostNameInCertificate' is not a host name"),
        ("certificate=a;ServerCertificate=b", "'certificate' and 'ServerCertificate' exclude"),
        ("ServerCertificate=a;HostNameInCertificate=b", "exclude each other"),
        ("Allow Routing To=net", "'Allow Routing To' must be suffixes of host names"),
        ("Allow Routing To=a.b,", "'Allow Routing To' must be"),
        ("Entra Scope=$rm", "not a scope"),
        ("Entra Scope=$(SCOPE)", "placeholder"),
        ("Pooling=False", "'Pooling' must be True, or be left out"),
        ("Connection Reset=False", "Config::recycling"),
        ("DSN=shop", "ODBC"),
        (
            "socketTimeout=5;fips=true;pipe=x",
            "; fips must be False, or be left out: for a FIPS build of TLS, call Config::tls; pipe names a pipe",
        ),
        ("Host=x", "entra_pool::postgres"),
        ("Trusted_Connection=SSPI", "Kerberos"),
        ("Failover Partner=b", "database mirroring"),
        ("Language=Deutsch", "SET LANGUAGE"),
        ("trustStore=x.jks", "TrustServerCertificateCA"),
        ("sslProtocol=TLSv1.1", "TLS 1.2 or 1.3"),
        ("fips=true", "Config::tls"),
    ] {
        let text = format!("{AZURE}{behind_server}");
        let error = text.parse::<Config>().unwrap_err();
        let said = error.to_string();
        assert!(said.contains(expected), "{text}: {said}");
        assert!(!format!("{said}{error:?}").contains("hunter2"), "{error:?}");
    }
}

#[test]
fn an_invalid_server_is_refused_with_advice() {
    for (text, expected) in [
        ("", "'Server' is missing"),
        ("Database=x", "'Server' is missing"),
        ("jdbc:sqlserver://", "'Server' is missing"),
        ("mssql:///x", "'Server' is missing"),
        ("Server=localhost", "Entra Scope"),
        ("Server=evil-database.windows.net", "Entra Scope"),
        (r"Server=a\SQLEXPRESS", "instance"),
        (r"jdbc:sqlserver://a\SQLEXPRESS:1433", "'serverName' names an instance"),
        ("jdbc:sqlserver://a;instanceName=x", "'instanceName' names an instance"),
        ("Server=a,0", "with a port from 1"),
        ("Server=a:1433", "follows a comma: a,1433"),
        ("Server=tcp:a.database.windows.net:1433", "comma: a.database.windows.net,1433"),
        ("Server=a:b", "must be tcp:HOST[,PORT]"),
        (
            "Server={your_server}.database.windows.net",
            "'Server' has a template's placeholder: write your own host name there",
        ),
        ("Server=a b", "host name"),
        ("Server=tcp:,1433", "'Server' is missing"),
        (r"Server=np:\\.\pipe\sql", "named pipe"),
        (r"Server=\\a\pipe\sql", "named pipe"),
        ("Server=lpc:a", "shared memory"),
        ("Server=admin:a", "administrator"),
        ("Server=a,1;Port=2", "'Port' is given twice"),
        ("jdbc:sqlserver://a:1;portNumber=2", "'portNumber=1' and 'portNumber=2' exclude"),
        ("mssql://a.database.windows.net/x?database=y", "'Database=x' and 'database=y' exclude"),
        ("mssql://a.database.windows.net/x;Password=hunter2", "%3B"),
        ("mssql://a.database.windows.net?Entra+Scope=x;Password=hunter2", "scope"),
        ("postgres://a/b", "entra_pool::postgres"),
        ("user=u host=a dbname=b password=hunter2", "entra_pool::postgres"),
        ("Server=a Database=b", "write ';' instead"),
        ("mysql://a/b", "use one of mssql://, sqlserver://, jdbc:sqlserver://"),
        ("jdbc:postgresql://a/b", "entra_pool::postgres"),
        ("jdbc:oracle:thin:hunter2@//a:1521/x", "not for SQL Server"),
        ("jdbc:sqlserver:h", "not for SQL Server"),
        ("Server=shop.postgres.database.azure.com", "use entra_pool::postgres"),
        (
            "Server=a.postgres.database.azure.com;Include Error Detail=true;Password=hunter2",
            "use entra_pool::postgres",
        ),
        (
            "Server=a.sql.chinacloudapi.cn",
            "'Entra Scope=https://database.chinacloudapi.cn/.default'",
        ),
        ("Server=a.usgovcloudapi.net", "'Entra Scope=https://database.usgovcloudapi.net/.default'"),
    ] {
        let error = text.parse::<Config>().unwrap_err();
        let said = error.to_string();
        assert!(said.contains(expected), "{text}: {said}");
        assert!(!format!("{said}{error:?}").contains("hunter2"), "{error:?}");
    }
}

#[test]
fn built_and_parsed_configurations_are_checked_alike() {
    for (built, expected) in [
        (Config::new(""), "'Server' is missing"),
        (Config::new("tcp:a,1"), "'Server' must be tcp:HOST"),
        (shop().port(0), "'Port' must be"),
        (shop().database(""), "'Database' must have a value"),
        (shop().database("a\0"), "'Database' has a NUL"),
        (shop().application_name("書".repeat(129)), "'Application Name' is longer than 128"),
        (shop().workstation_id("x".repeat(129)), "'Workstation ID' is longer"),
        (shop().connect_timeout(Duration::ZERO), "'Connect Timeout' must be"),
        (shop().connect_timeout(Duration::MAX), "'Connect Timeout' must be"),
        (shop().command_timeout(Duration::MAX), "'Command Timeout' must be"),
        (shop().max_lifetime(Duration::MAX), "'Connection Lifetime' must be"),
        (shop().retry_interval(Duration::from_millis(999)), "'ConnectRetryInterval' must be"),
        (shop().packet_size(1), "'Packet Size' must be"),
        (shop().max_size(0), "'Max Pool Size' must be"),
        (shop().ca_file(""), "'TrustServerCertificateCA' must have a value"),
        (shop().allow_routing_to("."), "'Allow Routing To' must be"),
        (shop().max_size(2).min_size(3), "'Min Pool Size' is more than"),
        (shop().host_in_certificate("*.windows.net"), "'HostNameInCertificate' is not a host name"),
        (shop().server_certificate("a").host_in_certificate("b"), "exclude each other"),
        (Config::new("localhost"), "Entra Scope"),
    ] {
        let error = built.check().unwrap_err().to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[test]
fn only_dangerous_methods_disable_certificate_verification() {
    let trusting = format!("{AZURE}TrustServerCertificate=True");
    assert_eq!(Config::dangerous_parse(&trusting).unwrap().trust, Trust::AnyOnLoopback);
    assert_eq!(Config::dangerous_parse(AZURE).unwrap().trust, Trust::Platform);
    let contradiction = format!("{trusting};TrustServerCertificateCA=ca.pem");
    let error = Config::dangerous_parse(&contradiction).unwrap_err();
    assert!(matches!(error, ConfigError::Conflict { .. }), "{error:?}");

    // The last call wins.
    let loopback = shop().ca_file("ca.pem").dangerous_trust_any_certificate_on_loopback();
    assert_eq!(loopback.trust, Trust::AnyOnLoopback);
    let anywhere = shop().dangerous_trust_any_certificate_anywhere();
    assert_eq!(anywhere.trust, Trust::AnyAnywhere);
    assert_eq!(loopback.ca_file("ca.pem").trust, Trust::Roots("ca.pem".into()));
    // Parsing the shown string never disables verification.
    assert_eq!(config(&anywhere.to_string()).trust, Trust::Platform);
}

#[test]
fn a_top_level_domain_is_not_a_routing_suffix() {
    for (suffix, expected) in [
        ("SQL.example", Some("sql.example")),
        (".sql.example.", Some("sql.example")),
        ("10.0.0.1", Some("10.0.0.1")),
        ("::1", Some("::1")),
        ("localhost", Some("localhost")),
        ("net", None),
        ("", None),
        ("a b.c", None),
        ("*.sql.example", None),
    ] {
        let config = shop().allow_routing_to(suffix);
        let allowed = config.check().is_ok();
        let suffixes = allowed.then(|| config.routing_suffixes.join(","));
        assert_eq!(suffixes.as_deref(), expected, "{suffix}");
    }
}

#[test]
fn every_keyword_is_documented() {
    let documented = include_str!("mod.rs");
    // The table of other keywords is included in the documentation.
    let settings = KEYWORDS.settings.iter().flat_map(|(names, ..)| names.split('|'));
    for name in settings {
        assert!(documented.contains(&format!("`{name}`")), "{name}");
    }
}

/// Expected results for strings in `tests/cases`: the ID, and parts of the error.
const REFUSED: &[(&str, &[&str])] = &[
    ("S02", &["'Password' is not accepted", "remove it"]),
    ("S03", &["'Authentication' is an interactive login", "az login"]),
    ("S04", &["'password' is not accepted"]),
    ("S07", &["Entra Tenant", "AZURE_TENANT_ID"]),
    ("S10", &["'password' is not accepted"]),
    ("S13", &["'TrustServerCertificate' must be False", "TrustServerCertificateCA"]),
    ("S15", &["'Connection Timeout=30' and 'Connect Timeout=60'"]),
    (
        "S16",
        &["'Connection Timeout' must be a number of seconds, 1 or more", "0 would wait for ever"],
    ),
    (
        "S21",
        &["'socketTimeout' must be 0", "use Command Timeout", "lockTimeout", "SET LOCK_TIMEOUT"],
    ),
    ("S22", &["the whole string is in quotes"]),
    ("S24", &["escaped with backslashes"]),
    ("S28", &["'Server' has a template's placeholder", "host name"]),
    ("S29", &["the port follows a comma: shop.database.windows.net,1433"]),
    ("S42", &["SQLAlchemy URL", "mssql://HOST:PORT/DATABASE", "KEYWORD=VALUE"]),
    ("S44", &["not for SQL Server"]),
    ("S57", &["User Id must be a client ID"]),
    ("S58", &["AZURE_FEDERATED_TOKEN_FILE"]),
    ("S61", &["Always Encrypted"]),
];

/// The expectations of a row: `key=value` between other words.
fn facts(row: &str) -> impl Iterator<Item = (&str, &str)> {
    row.split([';', ',', ' ']).filter_map(|word| word.split_once('='))
}

#[test]
fn pasted_strings_parse_or_are_refused_with_useful_advice() {
    let environment = Environment::from_process();
    let from_environment = [("S07", "AZURE_TENANT_ID"), ("S58", "AZURE_FEDERATED_TOKEN_FILE")];
    let mut seen = 0;
    for line in include_str!("../../../tests/cases/azure_sql_strings.tsv").lines() {
        let [id, expected, must_hold, string] = line.split('\t').collect::<Vec<_>>()[..] else {
            panic!("{line}")
        };
        if id.starts_with('#') {
            continue;
        }
        seen += 1;
        let string = string.replace("\\n", "\n").replace("\\u{feff}", "\u{feff}");
        let read = read::parse(&string, false);
        let NamedIdentity { authentication, client_id, tenant, .. } = match &read {
            Ok((_, identity)) => identity,
            Err(_) => &NamedIdentity::default(),
        };
        let named = (*authentication, client_id.clone(), tenant.clone());
        let read = read.map_err(Error::from).and_then(|(config, identity)| {
            config.credential(identity)?;
            Ok(config)
        });
        if expected == "err" {
            if from_environment
                .iter()
                .any(|(it, name)| *it == id && environment.get(name).is_some())
            {
                continue;
            }
            let (_, parts) = REFUSED.iter().find(|(it, _)| *it == id).expect(id);
            let said = crate::token::with_causes(&read.expect_err(id));
            assert!(parts.iter().all(|it| said.contains(it)), "{id}: {said}");
            assert!(!said.contains("s3cret"), "{id}: {said}");
            continue;
        }
        // A feature may be disabled.
        let config = match read {
            Ok(config) => config,
            Err(Error::Identity(error)) if error.to_string().contains("feature `") => continue,
            Err(error) => panic!("{id}: {error:?}"),
        };
        for (key, value) in facts(must_hold) {
            let found = match key {
                "host" => config.host.clone(),
                "port" => config.port.to_string(),
                "database" => config.database.clone().unwrap_or_default(),
                "authentication" => named.0.map_or("Default".to_owned(), |it| format!("{it:?}")),
                "client_id" => named.1.clone().unwrap_or_default(),
                "tenant" => named.2.clone().unwrap_or_default(),
                "scope" => config.token_scope().unwrap().to_string(),
                "read_only" => config.read_only.to_string(),
                _ => panic!("{id}: {key}"),
            };
            assert_eq!(found, value, "{id}: {key}");
        }
        // None of these strings weakens verification.
        assert_eq!((config.encrypt, &config.trust), (Encrypt::Mandatory, &Trust::Platform), "{id}");
        assert_eq!(
            config.connect_timeout.as_secs(),
            if string.contains("meout=30") { 30 } else { 15 }
        );
        if id != "S56" {
            assert_eq!(config.host_in_certificate, None, "{id}");
        }
    }
    assert_eq!(seen, 45);
}

/// Values that differ from the default of some setting, for the rules below.
const OTHER_VALUES: &[&str] = &["True", "yes", "0", "1", "x", "a.example", "ReadOnly", "Strict"];

#[test]
fn ignored_keywords_never_change_encryption_verification_target_or_identity() {
    let bare = config(AZURE);
    let rows = KEYWORDS.others.lines().filter(|line| line.starts_with("| `"));
    let names = rows.flat_map(|line| line.split('`').skip(1).step_by(2));
    let mut accepted = 0;
    for (name, value) in names.flat_map(|name| OTHER_VALUES.iter().map(move |it| (name, it))) {
        let Ok((config, identity)) = read::parse(&format!("{AZURE}{name}={value}"), false) else {
            continue;
        };
        accepted += 1;
        assert_eq!(config, bare, "{name}={value}");
        assert!(identity.refuse_other().is_ok(), "{name}={value}");
    }
    assert!(accepted > 400, "{accepted}");
}

#[test]
fn only_their_own_keywords_change_encryption_verification_target_or_identity() {
    use keywords::Setting::{
        Authentication, CaFile, Encrypt as Level, HostNameInCertificate, ServerCertificate, UserId,
    };
    let bare = config(AZURE);
    for (names, setting, _) in KEYWORDS.settings {
        for value in OTHER_VALUES {
            let name = names.split('|').next().unwrap();
            let Ok((config, identity)) = read::parse(&format!("{AZURE}{name}={value}"), false)
            else {
                continue;
            };
            let names_identity = matches!(setting, Authentication | UserId);
            assert!(names_identity || identity.refuse_other().is_ok(), "{name}={value}");
            // Other values are stronger, or narrow the trusted certificates.
            if !matches!(setting, CaFile | ServerCertificate) {
                assert_eq!(config.trust, bare.trust, "{name}={value}");
            }
            if *setting != HostNameInCertificate {
                assert_eq!(config.host_in_certificate, None, "{name}={value}");
            }
            assert!(*setting == Level || config.encrypt == bare.encrypt, "{name}={value}");
            assert_eq!(config.host, bare.host, "{name}={value}");
        }
    }
}

#[test]
fn a_wildcard_in_host_name_in_certificate_does_not_weaken_verification() {
    for host in ["shop.database.windows.net", "orders-fog.secondary.database.windows.net"] {
        for wildcard in ["*.database.windows.net", "*.Windows.Net", "*.net"] {
            let string = format!("Server={host};HostNameInCertificate={wildcard}");
            // The certificate must be valid for the host itself.
            assert_eq!(config(&string), config(&format!("Server={host}")), "{wildcard}");
        }
    }
}

#[test]
fn braces_and_the_form_of_a_string_do_not_change_the_target() {
    for (string, database) in [
        ("Server=a.database.windows.net;Database={b;Server=c.example}", "b;Server=c.example"),
        ("Server=a.database.windows.net;Database={b}};Server=c.example}", "b};Server=c.example"),
        ("odbc:Server={a.database.windows.net};Database={b}", "b"),
        ("ODBC:server=a.database.windows.net;database=b", "b"),
        ("sqlserver://a.database.windows.net;database=b?c/d", "b?c/d"),
        ("MSSQL://a.database.windows.net:1433;database={b;c}", "b;c"),
        ("sqlserver://a.database.windows.net/b?app+name=c;d", "b"),
    ] {
        let config = config(string);
        assert_eq!(config.host, "a.database.windows.net", "{string}");
        assert_eq!(config.database.as_deref(), Some(database), "{string}");
    }
}

type Variables = &'static [(&'static str, &'static str)];
/// A client type, its variables, its identity: client ID, tenant, secret.
type Client = (&'static str, Variables, Option<Member>, [Option<&'static str>; 3]);
/// The ID of user-assigned identities and service principals.
const ID: &str = "11111111-2222-3333-4444-555555555555";

fn of_variables(variables: Variables) -> Result<(Config, NamedIdentity), ConfigError> {
    super::variables::read(&Environment::from_pairs(variables.iter().copied()))
}

/// As Microsoft Learn lists them in "Integrate Azure SQL Database with Service Connector".
#[test]
#[allow(clippy::too_many_lines)] // The function is a table.
fn the_variables_of_service_connector_are_read_for_every_client_type() {
    const MANAGED: Option<Member> = Some(Member::ManagedIdentity);
    const PRINCIPAL: Option<Member> = Some(Member::ServicePrincipal);
    const PORT: (&str, &str) = ("AZURE_SQL_PORT", "1433");
    const SERVER: (&str, &str) = ("AZURE_SQL_SERVER", "shop.database.windows.net");
    const HOST: (&str, &str) = ("AZURE_SQL_HOST", "shop.database.windows.net");
    const DATABASE: (&str, &str) = ("AZURE_SQL_DATABASE", "orders");
    const MSI: (&str, &str) = ("AZURE_SQL_AUTHENTICATION", "ActiveDirectoryMsi");
    const NODE: (&str, &str) = ("AZURE_SQL_AUTHENTICATIONTYPE", "azure-active-directory-default");
    const NONE: (&str, &str) = ("AZURE_SQL_AUTHENTICATION", "azure-active-directory-default");
    let table: &[Client] = &[
        (
            ".NET, system-assigned",
            &[(
                STRING,
                "Data Source=shop.database.windows.net,1433;Initial Catalog=orders;Authentication=ActiveDirectoryManagedIdentity",
            )],
            MANAGED,
            [None, None, None],
        ),
        (
            ".NET, user-assigned",
            &[(
                STRING,
                "Data Source=shop.database.windows.net,1433;Initial Catalog=orders;User ID=11111111-2222-3333-4444-555555555555;Authentication=ActiveDirectoryManagedIdentity",
            )],
            MANAGED,
            [Some(ID), None, None],
        ),
        (
            ".NET, service principal",
            &[
                ("AZURE_SQL_CLIENTID", ID),
                ("AZURE_SQL_CLIENTSECRET", "s3cret"),
                ("AZURE_SQL_TENANTID", "contoso"),
                (
                    STRING,
                    "Data Source=shop.database.windows.net,1433;Initial Catalog=orders;User ID=11111111-2222-3333-4444-555555555555;Password=s3cret;Authentication=ActiveDirectoryServicePrincipal",
                ),
            ],
            PRINCIPAL,
            [Some(ID), Some("contoso"), Some("s3cret")],
        ),
        (
            "Java, system-assigned",
            &[(
                STRING,
                "jdbc:sqlserver://shop.database.windows.net:1433;databaseName=orders;authentication=ActiveDirectoryMSI;",
            )],
            MANAGED,
            [None, None, None],
        ),
        (
            "Java, user-assigned",
            &[(
                STRING,
                "jdbc:sqlserver://shop.database.windows.net:1433;databaseName=orders;msiClientId=11111111-2222-3333-4444-555555555555;authentication=ActiveDirectoryMSI;",
            )],
            MANAGED,
            [Some(ID), None, None],
        ),
        (
            "Java, service principal",
            &[(
                STRING,
                "jdbc:sqlserver://shop.database.windows.net:1433;databaseName=orders;user=11111111-2222-3333-4444-555555555555;password=s3cret;authentication=ActiveDirectoryServicePrincipal;",
            )],
            PRINCIPAL,
            [Some(ID), None, Some("s3cret")],
        ),
        ("Node.js, system-assigned", &[SERVER, PORT, DATABASE, NODE], None, [None, None, None]),
        (
            "Node.js, user-assigned",
            &[SERVER, PORT, DATABASE, NODE, ("AZURE_SQL_CLIENTID", ID)],
            None,
            [Some(ID), None, None],
        ),
        (
            "Node.js, service principal",
            &[
                SERVER,
                PORT,
                DATABASE,
                NODE,
                ("AZURE_SQL_CLIENTID", ID),
                ("AZURE_SQL_CLIENTSECRET", "s3cret"),
                ("AZURE_SQL_TENANTID", "contoso"),
            ],
            PRINCIPAL,
            [Some(ID), Some("contoso"), Some("s3cret")],
        ),
        ("Python, system-assigned", &[SERVER, PORT, DATABASE, MSI], MANAGED, [None, None, None]),
        (
            "Python, user-assigned",
            &[SERVER, PORT, DATABASE, MSI, ("AZURE_SQL_USER", ID)],
            MANAGED,
            [Some(ID), None, None],
        ),
        (
            "Python, service principal",
            &[
                SERVER,
                PORT,
                DATABASE,
                ("AZURE_SQL_USER", ID),
                ("AZURE_SQL_AUTHENTICATION", "ActiveDirectoryServerPrincipal"),
                ("AZURE_SQL_PASSWORD", "s3cret"),
            ],
            PRINCIPAL,
            [Some(ID), None, Some("s3cret")],
        ),
        ("none, system-assigned", &[HOST, PORT, DATABASE, NONE], None, [None, None, None]),
        (
            "none, user-assigned",
            &[HOST, PORT, DATABASE, NONE, ("AZURE_SQL_USERNAME", ID)],
            None,
            [Some(ID), None, None],
        ),
        (
            "none, service principal",
            &[
                HOST,
                PORT,
                DATABASE,
                NONE,
                ("AZURE_SQL_USERNAME", ID),
                ("AZURE_SQL_PASSWORD", "s3cret"),
            ],
            PRINCIPAL,
            [Some(ID), None, Some("s3cret")],
        ),
        (
            "App Service's connection string",
            &[("SQLAZURECONNSTR_Shop", "Server=tcp:shop.database.windows.net;Database=orders")],
            None,
            [None, None, None],
        ),
        (
            "App Service's connection string to SQL Server",
            &[("SQLCONNSTR_Shop", "Server=tcp:shop.database.windows.net;Database=orders"), HOST],
            None,
            [None, None, None],
        ),
        // This variable precedes all others.
        (
            "several",
            &[
                (STRING, "Server=shop.database.windows.net;Database=orders"),
                ("SQLAZURECONNSTR_Other", "Server=other"),
                ("AZURE_SQL_SERVER", "other"),
            ],
            None,
            [None, None, None],
        ),
    ];
    for (client, variables, authentication, parts) in table {
        let (config, named) =
            of_variables(variables).unwrap_or_else(|error| panic!("{client}: {error}"));
        assert_eq!(config.to_string(), "Server=tcp:shop.database.windows.net,1433;Database=orders");
        assert_eq!(named.authentication, *authentication, "{client}");
        let secret = named.client_secret.as_ref().map(|secret| secret.as_str());
        let found = [named.client_id.as_deref(), named.tenant.as_deref(), secret];
        assert_eq!(found, *parts, "{client}");
        // Python's variable contains the object ID of a managed identity.
        let object = (*client == "Python, user-assigned").then_some("AZURE_SQL_USER");
        assert_eq!(named.object_id_of, object, "{client}");
    }
}

#[test]
fn errors_name_the_missing_or_refused_variables() {
    const STRINGS: Variables = &[("SQLAZURECONNSTR_A", "Server=a"), ("SQLCONNSTR_B", "Server=b")];
    for (variables, expected) in [
        (&[][..], "'AZURE_SQL_CONNECTIONSTRING' is not set, and neither is SQLAZURECONNSTR_"),
        (&[(STRING, ""), ("AZURE_SQL_SERVER", "")], "AZURE_SQL_SERVER, AZURE_SQL_SERVERNAME or"),
        (&[("AZURE_SQL_DATABASE", "orders")], "is not set"),
        (STRINGS, "is one of several connection strings (SQLAZURECONNSTR_A, SQLCONNSTR_B)"),
        // Go and PHP get only a password.
        (
            &[(
                STRING,
                "server=shop.database.windows.net;port=1433;database=orders;user id=sa;password=hunter2;",
            )],
            "'password' is not accepted",
        ),
        (
            &[
                ("AZURE_SQL_SERVERNAME", "shop.database.windows.net,1433"),
                ("AZURE_SQL_DATABASE", "orders"),
                ("AZURE_SQL_UID", "sa"),
                ("AZURE_SQL_PASSWORD", "hunter2"),
            ],
            "'Password' is not accepted",
        ),
    ] {
        let Err(error) = of_variables(variables) else { panic!("{variables:?}") };
        let error = error.to_string();
        assert!(error.contains(expected) && !error.contains("hunter2"), "{error}");
    }
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z0-9.-]{1,12}",
        "[ ;='\"{}\\\\@,a]{1,8}",
        any::<String>().prop_filter("as a setting must be", |text| {
            !text.is_empty()
                && !text.contains(['\0', '<', '{', '$'])
                && text.encode_utf16().count() <= 128
        }),
    ]
}

fn time() -> impl Strategy<Value = Duration> {
    prop_oneof![
        (1..100_000_u64).prop_map(Duration::from_secs),
        (1..10_000_000_000_u64).prop_map(Duration::from_nanos),
    ]
}

prop_compose! {
    fn any_config()(
        host in prop_oneof!["[a-z][a-z0-9]{0,8}(\\.[a-z]{1,5}){0,2}", Just("::1".to_owned()), Just("10.0.0.1".to_owned()), Just("a.database.windows.net".to_owned())],
        port in option::of(1_u16..),
        (database, application, workstation) in (option::of(text()), option::of(text()), option::of(text())),
        certificate in option::of((0..4, text())),
        flags in any::<[bool; 3]>(),
        packet_size in option::of(512_u32..=32_767),
        times in (option::of(time()), option::of(option::of(time())), option::of(option::of(time()))),
        retries in (option::of(0..256_u32), option::of((1..=60_u64).prop_map(Duration::from_secs))),
        (min, max) in (option::of(0..10_usize), option::of(10..=32_767_usize)),
        suffixes in vec("[a-z]{1,5}\\.[a-z]{1,5}", 0..3),
        scope in option::of("api://[a-z]{1,9}/\\.default"),
    ) -> Config {
        let mut builder = Config::new(host);
        if let Some(port) = port { builder = builder.port(port); }
        if let Some(name) = database { builder = builder.database(name); }
        if let Some(name) = application { builder = builder.application_name(name); }
        if let Some(name) = workstation { builder = builder.workstation_id(name); }
        builder = match certificate {
            None => builder,
            Some((0, path)) => builder.ca_file(PathBuf::from(path)),
            Some((1, path)) => builder.server_certificate(path),
            Some((2, _)) => builder.host_in_certificate("sql.example"),
            Some(_) => builder.dangerous_trust_any_certificate_on_loopback(),
        };
        if flags[0] { builder = builder.encrypt(Encrypt::Strict); }
        builder = builder.read_only(flags[1]).multi_subnet_failover(flags[2]);
        if let Some(size) = packet_size { builder = builder.packet_size(size); }
        if let Some(limit) = times.0 { builder = builder.connect_timeout(limit); }
        if let Some(limit) = times.1 { builder = builder.command_timeout(limit); }
        if let Some(lifetime) = times.2 { builder = builder.max_lifetime(lifetime); }
        if let Some(count) = retries.0 { builder = builder.retry_count(count); }
        if let Some(pause) = retries.1 { builder = builder.retry_interval(pause); }
        if let Some(size) = min { builder = builder.min_size(size); }
        if let Some(size) = max { builder = builder.max_size(size); }
        for suffix in suffixes { builder = builder.allow_routing_to(suffix); }
        builder.scope(Scope::new(scope.unwrap_or("https://database.windows.net/.default".into())).unwrap())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_shown_configuration_parses_to_itself(built in any_config()) {
        built.check().unwrap();
        let shown = built.to_string();
        let read = config(&shown);
        // Showing it again returns the same string.
        prop_assert_eq!(read.to_string(), shown);
        let trust = match &built.trust {
            Trust::AnyOnLoopback => Trust::Platform,
            trust => trust.clone(),
        };
        // A scope that is derived from the host is not shown.
        let scope = read.scope.clone();
        prop_assert_eq!(read.token_scope(), built.token_scope());
        prop_assert_eq!(read, Config { trust, scope, ..built });
    }

    #[test]
    fn any_text_parses_or_is_refused_without_a_panic(text in "(jdbc:sqlserver://|mssql://|Server=)?\\PC{0,40}") {
        let _ = text.parse::<Config>();
    }
}

#[test]
fn strings_of_the_azure_portal_parse() {
    let strings = [
        "Server=tcp:shop.database.windows.net,1433;Initial Catalog=orders;Encrypt=True;\
         TrustServerCertificate=False;Connection Timeout=30;\
         Authentication=\"Active Directory Default\";",
        "jdbc:sqlserver://shop.database.windows.net:1433;database=orders;encrypt=true;\
         trustServerCertificate=false;hostNameInCertificate=*.database.windows.net;\
         loginTimeout=30;authentication=ActiveDirectoryDefault",
    ];
    let [ado_net, jdbc] = strings.map(|string| string.parse::<Config>().unwrap());
    assert_eq!(ado_net, jdbc);
    for wildcard in
        ["*.example", "*", "a.*.net", "*.evil-database.windows.net", "*shop.database.windows.net"]
    {
        let string = format!("Server=shop.database.windows.net;HostNameInCertificate={wildcard}");
        let error = string.parse::<Config>().unwrap_err().to_string();
        assert!(error.contains("HostNameInCertificate"), "{error}");
    }
}
