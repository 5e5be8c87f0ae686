use super::{pairs::Rules, *};

fn is_known(name: &str) -> bool {
    is_one_of(&["Server", "user"], name)
}

fn said(mistake: &Mistake) -> String {
    format!("{mistake:?}")
}

/// Reads pairs by the rules of ADO.NET.
fn read(text: &str) -> Vec<(String, String)> {
    let pairs = super::read(text, Rules::AdoNet, is_known);
    let pairs = pairs.unwrap_or_else(|mistake| panic!("{text}: {mistake:?}"));
    pairs.into_iter().map(|(keyword, value)| (keyword, value.to_string())).collect()
}

#[test]
fn strings_are_read_as_dotnet_reads_them() {
    let cases: &[(&str, &[(&str, &str)])] = &[
        ("", &[]),
        (" ; ;", &[]),
        ("A=1", &[("A", "1")]),
        ("A=1;B=2;", &[("A", "1"), ("B", "2")]),
        (";;A=1;;B=2", &[("A", "1"), ("B", "2")]),
        (" User Id = x y ; B = 2 ", &[("User Id", "x y"), ("B", "2")]),
        (
            r#"A="x;y";B='it''s';C="say ""hi""""#,
            &[("A", "x;y"), ("B", "it's"), ("C", r#"say "hi""#)],
        ),
        (r#"A='"';B="'""#, &[("A", "\""), ("B", "'")]),
        (r#"A=" x ";B=2"#, &[("A", " x "), ("B", "2")]),
        ("A=''''", &[("A", "'")]),
        ("A={x;B=2", &[("A", "{x"), ("B", "2")]),
        // Braces quote a value as in ODBC, if they enclose it.
        ("A={x};B=2", &[("A", "x"), ("B", "2")]),
        ("A={x;y}};z} ; B=2", &[("A", "x;y};z"), ("B", "2")]),
        ("A={x}y;B=2", &[("A", "{x}y"), ("B", "2")]),
        ("A='{x}';B=2", &[("A", "{x}"), ("B", "2")]),
        ("A={your_name};B=2", &[("A", "{your_name}"), ("B", "2")]),
        ("A=it's;B=2", &[("A", "it's"), ("B", "2")]),
        ("a==b=c", &[("a=b", "c")]),
        ("a== =c", &[("a=", "c")]),
        ("A=b=c", &[("A", "b=c")]),
        ("A= =b==", &[("A", "=b==")]),
        ("A=;B=2;C=\"\"", &[("A", ""), ("B", "2"), ("C", "")]),
        ("Datenbank=Bücher;名=書", &[("Datenbank", "Bücher"), ("名", "書")]),
        ("A=\n1\n;\nB=2", &[("A", "1"), ("B", "2")]),
        ("A=\u{a0}1\u{3000}", &[("A", "1")]),
        ("A='\u{1}'", &[("A", "\u{1}")]),
    ];
    for (text, expected) in cases {
        let read = read(text);
        let read: Vec<_> = read.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(read, *expected, "{text}");
    }
}

#[test]
fn an_error_names_the_keyword_without_its_value() {
    for (text, expected) in [
        ("Server", "keyword number 1 has no '='"),
        ("A=1;hunter2;B=2", "keyword number 2 has no '='"),
        ("a==b", "keyword number 1 has no '='"),
        ("=hunter2", "pair number 1"),
        ("A=1;=hunter2", "pair number 2"),
        ("Server=\"hunter2", "of 'Server' begins with a quote that is not closed"),
        ("Server='x'hunter2;B=1", "of 'Server' continues after its closing quote"),
        ("Server=hunter2'", "of 'Server' ends with a quote"),
        (r#"Server=\"hunter2\";B=1"#, "of 'Server' has quotes that are escaped with backslashes"),
        ("Server=hunter2\u{1}", "of 'Server' has a control character"),
        // The text after an unquoted password may be the rest of it.
        ("PWD=x;hunter2='y", "of keyword number 2 begins with a quote"),
        ("Server=hunter2\0", "of 'Server' has a control character"),
    ] {
        let error = said(&super::read(text, Rules::AdoNet, is_known).unwrap_err());
        assert!(error.contains(expected), "{text}: {error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
fn white_space_and_separators_around_a_pasted_string_are_removed() {
    for text in ["a=b", " \n a=b\r\n", "\u{feff}a=b", "\u{200b}a=b\u{feff} ", "a=b; \n;"] {
        assert_eq!(trimmed(text), Ok("a=b"), "{text:?}");
    }
}

#[test]
fn a_string_that_is_still_quoted_or_escaped_is_refused_and_not_shown() {
    for (text, expected) in [
        ("\"Server=hunter2\"", "the whole string is in quotes"),
        ("'Server=hunter2'", "the whole string is in quotes"),
        ("\"Server=hunter2", "the whole string is in quotes"),
        ("“Server=hunter2”", "the whole string is in quotes"),
        ("`Server=hunter2`", "the whole string is in quotes"),
        (r#"\"Server=hunter2\""#, "backslashes"),
        ("Server=&quot;hunter2&quot;", "XML"),
        ("Server=&#39;hunter2&#39;", "XML"),
        (r"Server=\u0022hunter2\u0022", "JSON"),
        ("postgres://h/d?a=hunter2&amp;b=c", "XML"),
    ] {
        let shown = said(&trimmed(text).unwrap_err());
        assert!(shown.contains(expected) && !shown.contains("hunter2"), "{text}: {shown}");
    }
}

#[test]
fn placeholders_are_detected_and_odbc_braces_are_not() {
    for value in [
        "{your_username}",
        "{your_password_here}",
        "{your-server}.database.windows.net",
        "<server>",
        "<sql-server>.database.windows.net",
        "<your Client ID>",
        "{server}",
        "{Database}",
        "{user_name}",
        "${SERVER}",
        "$(SqlServer)",
        "#{SqlServer}#",
        "[server].database.windows.net",
        "YOUR_SERVER.database.windows.net",
        "tcp:your_server_name,1433",
        "your_client_id",
        "$PGUSER",
        "$SQL_SERVER.database.windows.net",
        "tcp:$SERVER,1433",
        "$server",
        "%PGUSER%",
        "%SERVER%.database.windows.net",
        "%DATABASE%",
    ] {
        assert!(is_placeholder(value), "{value}");
    }
    for value in [
        "orders",
        "{orders}",
        "a<b",
        "a>b<c",
        "<>",
        "{}",
        "11111111-2222",
        "a{b",
        "$1",
        "[::1]",
        "your_events",
        "$A",
        "$orders",
        "cost$CENTER",
        "orders$",
        "$",
        "%",
        "%%",
        "%41%",
        "%41BC%",
        "100%",
        "50%OFF%",
        "%C3%BC",
        "",
    ] {
        assert!(!is_placeholder(value), "{value}");
    }
}

/// Parses whole connection strings of both databases.
#[cfg(all(feature = "azure-sql", feature = "postgres"))]
#[test]
fn an_unsubstituted_variable_is_reported_but_a_dollar_sign_in_a_value_is_not() {
    use crate::{azure_sql, postgres};
    let of_postgres = |text: &str| text.parse::<postgres::Config>().map_err(|e| e.to_string());
    let of_azure_sql = |text: &str| text.parse::<azure_sql::Config>().map_err(|e| e.to_string());
    for variable in ["$PGUSER", "${PGUSER}", "$(PGUSER)", "%PGUSER%", "%DATABASE%"] {
        let host = "shop.postgres.database.azure.com";
        for text in [
            format!("postgres://{variable}@{host}/orders"),
            format!("postgres://shop@{host}/{variable}"),
            format!("host={host} dbname=orders user={variable}"),
            format!("host={variable} dbname=orders user=shop"),
            format!("Host={host};Database={variable};Username=shop"),
        ] {
            let error = of_postgres(&text).unwrap_err();
            assert!(error.contains("placeholder"), "{text}: {error}");
        }
        let server = "Server=shop.database.windows.net";
        for text in [
            format!("{server};Database={variable}"),
            format!("Server={variable};Database=orders"),
            format!("Server=tcp:{variable}.database.windows.net,1433;Database=orders"),
            format!(
                "{server};Database=orders;User Id={variable};Authentication=ActiveDirectoryMSI"
            ),
        ] {
            let error = of_azure_sql(&text).unwrap_err();
            assert!(error.contains("placeholder"), "{text}: {error}");
        }
    }
    let host = "shop.postgres.database.azure.com";
    for text in [
        format!("postgres://shop%41pp@{host}/orders"),
        format!("postgres://shop@{host}/%C3%BCbung"),
        format!("postgres://a$b@{host}/cost$center"),
        format!("postgres://shop@{host}/100%25"),
        format!("host={host} dbname=%41% user=shop$"),
    ] {
        let _ = of_postgres(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
    }
    let text = "Server=shop.database.windows.net;Database=cost$CENTER%41%";
    let _ = of_azure_sql(text).unwrap();
}

#[cfg(feature = "postgres")]
#[test]
fn an_error_does_not_repeat_its_reason() {
    for text in ["postgres", "Server=x;hunter2", "\"postgres://u@h/d\"", "Host='x;Username=u"] {
        let error = text.parse::<crate::postgres::Config>().unwrap_err().to_string();
        assert!(error.matches("cannot be read").count() < 2, "{text}: {error}");
    }
}

#[test]
fn a_url_with_another_scheme_is_refused_with_advice() {
    let postgres = ["postgres", "postgresql", "jdbc:postgresql"];
    for (scheme, own, expected) in [
        ("postgres", &["mssql"][..], "entra_pool::postgres"),
        ("jdbc:postgresql", &["mssql"], "entra_pool::postgres"),
        ("postgresql+psycopg2", &["mssql"], "entra_pool::postgres"),
        ("mssql+pyodbc", &["mssql"], "SQLAlchemy URL (mssql+pyodbc://): write mssql://"),
        ("postgresql+asyncpg", &postgres, "write postgresql://"),
        ("sqlserver", &postgres, "entra_pool::azure_sql"),
        ("mysql", &postgres, "use one of postgres://, postgresql://, jdbc:postgresql://"),
    ] {
        let shown = said(&other_url(scheme, own));
        assert!(shown.contains(expected), "{scheme}: {shown}");
    }
    for text in ["mssql://h", "JDBC:SqlServer://h", "mssql+x://h"] {
        assert!(scheme(text).is_some(), "{text}");
    }
    for text in ["Server=tcp:h", "Entra Scope=api://x", "://", "Server=h;A=x://y", ""] {
        assert_eq!(scheme(text), None, "{text}");
    }
}

const KEYWORDS: Keywords<u8> = Keywords {
    settings: &[("Server|Host Name", 1, "")],
    named: "| keyword |\n|---|\n| `Password` |\n",
    others: "| keyword | ignored | |\n|---|---|---|\n| `Net`, `net_work` | `tcp`, `0` | only TCP |\n\
             | `Pool Size` | any | |\n| `Pipe` | none | is a pipe |\n",
    unknown: " (there is no other)",
};

type Applied = (Vec<(u8, String)>, Result<Option<Mistake>, Mistake>);

fn apply(pairs: &[(&str, &str)]) -> Applied {
    let pairs = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned().into())).collect();
    let mut set = Vec::new();
    let result = KEYWORDS.apply(&pairs, |_, sets, _, value| {
        set.push((sets, value.to_owned()));
        Ok(())
    });
    (set, result)
}

#[test]
fn keywords_are_set_or_ignored_and_all_refused_ones_are_in_one_error() {
    let (set, result) =
        apply(&[("host_name", "a"), ("NET", "TCP"), ("poolsize", "<x>"), ("Pipe", "")]);
    assert_eq!((set, result), (vec![(1, "a".to_owned())], Ok(None)));
    let value = |keyword: &str, problem: &str| Mistake::Value(keyword.into(), problem.into());
    let (_, result) = apply(&[("network", "lpc"), ("pipe", "x")]);
    let problem = "must be tcp, or be left out: only TCP; pipe is a pipe";
    assert_eq!(result, Err(value("network", problem)));
    let (set, result) = apply(&[("Server", "<server>"), ("Password", "<secret>")]);
    assert_eq!(set, [(0, "<secret>".to_owned())]);
    let problem = "has a template's placeholder: write your own host name there";
    assert_eq!(result, Ok(Some(value("Server", problem))));
}

#[test]
fn two_values_for_one_setting_are_shown_unless_they_may_be_secret() {
    let twice = |first: &str, second: &str| Err(Mistake::Twice(first.into(), second.into()));
    let (_, result) = apply(&[("Server", "a"), ("Host Name", "b")]);
    assert_eq!(result, twice("Server=a", "Host Name=b"));
    let (_, result) = apply(&[("Password", "a"), ("Server", "b"), ("Host Name", "c")]);
    assert_eq!(result, twice("Server", "Host Name"));
    let (_, result) = apply(&[("Password", "a"), ("password", "b")]);
    assert_eq!(result, twice("Password", "password"));
    let (_, result) = apply(&[("Server", "a@b"), ("server", "c")]);
    assert_eq!(result, twice("Server", "server=c"));
}

#[test]
fn an_unknown_keyword_is_shown_unless_it_may_be_part_of_a_secret() {
    let hidden = "has an unknown keyword, which is not shown because it may be a piece of a \
                  password (a value with a separator in it must be quoted)";
    for (pairs, expected) in [
        (&[("Sever", "a")][..], "has an unknown keyword 'Sever': did you mean 'Server'?"),
        (&[("Colour", "a")], "has an unknown keyword 'Colour' (there is no other)"),
        (&[("Password", "a"), ("hunter2", "b")], hidden),
        (&[("{hunter2", "b")], hidden),
    ] {
        assert_eq!(apply(pairs).1, Err(Mistake::Syntax(expected.to_owned())));
    }
}
