//! Parses the responses of identity endpoints: a token with its expiry, or the reason of a refusal.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use serde_json::{Value, value::RawValue};
use time::{OffsetDateTime, macros::format_description, parsing::Parsed};
use zeroize::Zeroizing;

use crate::{excerpt::excerpt, token::Token};

/// A successful response that does not contain a token. The source of a
/// [`CredentialError`](crate::token::CredentialError).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidAnswer {
    /// The body is empty.
    #[error("the response is empty")]
    Empty,
    /// The body is a web page of a proxy, a sign-in portal or an error handler.
    #[error("the response is a web page, not JSON")]
    Html,
    /// The body is longer than any token.
    #[error("the response is longer than {limit} bytes")]
    TooLong {
        /// The limit at which reading stopped.
        limit: usize,
    },
    /// The JSON is truncated.
    #[error("the response is truncated: its JSON breaks off after {length} bytes")]
    Truncated {
        /// The number of bytes received.
        length: usize,
    },
    /// The body is not a JSON object.
    #[error("the response is not a JSON object (line {line}, column {column})")]
    NotJson {
        /// The line of the syntax error.
        line: usize,
        /// The column of the syntax error.
        column: usize,
    },
    /// A field is absent or has an unknown form.
    #[error("the response's {field} is {problem}")]
    Field {
        /// The name of the field.
        field: &'static str,
        /// What is wrong with the field. Never contains its value.
        problem: &'static str,
    },
}

/// Parses the token in a body. `asked_at` is the time before the request, from which durations
/// count.
pub(super) fn token(body: &[u8], asked_at: SystemTime) -> Result<Token, InvalidAnswer> {
    let object = object(body)?;
    let after = |field| asked_at.checked_add(seconds(&object.get(field)?)?);
    let token = object.token("access_token", "expires_on", || after("expires_in"))?;
    // `refresh_in` is only a hint: an invalid value does not make the token unusable.
    let refresh_on = after("refresh_in").filter(|refresh_on| *refresh_on < token.expires_on());
    Ok(token.with_refresh_on(refresh_on))
}

/// A JSON object. Only requested fields are decoded, because other fields may be secrets, which
/// should not be copied.
pub(super) struct Object<'a>(HashMap<String, &'a RawValue>);

impl Object<'_> {
    /// Returns a field that is not a secret.
    fn get(&self, field: &str) -> Option<Value> {
        serde_json::from_str(self.0.get(field)?.get()).ok()
    }

    /// Returns the token in the field `secret`. Its expiry is the time in the field `expiry`. If
    /// that is absent or in an unknown form, the expiry is the time in the token's claims,
    /// otherwise the time that `or_else` returns.
    pub(super) fn token(
        &self,
        secret: &'static str,
        expiry: &'static str,
        or_else: impl FnOnce() -> Option<SystemTime>,
    ) -> Result<Token, InvalidAnswer> {
        let mut secret = self.secret(secret)?;
        let token = Token::new(std::mem::take(&mut *secret), SystemTime::UNIX_EPOCH);
        let problem =
            match self.0.get(expiry).map_or("", |value| value.get().trim_matches(['"', ' '])) {
                "" | "null" => "absent",
                _ => "neither seconds since 1970 nor a known form of a date",
            };
        let expires_on = self.time(expiry).or_else(|| token.claims()?.expires_on).or_else(or_else);
        let expires_on = expires_on.ok_or(InvalidAnswer::Field { field: expiry, problem })?;
        Ok(Token::new(token.secret(), expires_on))
    }

    /// Returns a point in time, in any known form.
    pub(super) fn time(&self, field: &str) -> Option<SystemTime> {
        point_in_time(&self.get(field)?)
    }

    /// Returns a text that is, or may contain, a secret.
    fn text(&self, field: &str) -> Option<Zeroizing<String>> {
        serde_json::from_str(self.0.get(field)?.get()).ok().map(Zeroizing::new)
    }

    fn secret(&self, field: &'static str) -> Result<Zeroizing<String>, InvalidAnswer> {
        let problem = match (self.text(field), self.0.get(field)) {
            (Some(secret), _) if !secret.trim().is_empty() => return Ok(secret),
            (Some(_), _) => "empty",
            (None, Some(value)) if value.get() != "null" => "not a string",
            _ => "absent",
        };
        Err(InvalidAnswer::Field { field, problem })
    }
}

/// Finds the first JSON object that has this field, in a text with other content such as warnings
/// and colour codes.
pub(super) fn object_with<'a>(field: &str, text: &'a [u8]) -> Result<Object<'a>, InvalidAnswer> {
    let starts = (0..text.len()).filter(|start| text[*start] == b'{');
    let mut objects = starts.filter_map(|start| {
        let objects = serde_json::Deserializer::from_slice(&text[start..]).into_iter();
        { objects }.next()?.ok().map(Object)
    });
    objects.find(|object| object.0.contains_key(field)).map_or_else(|| object(text), Ok)
}

/// Parses a body as a JSON object. The error contains no part of the body.
pub(super) fn object(body: &[u8]) -> Result<Object<'_>, InvalidAnswer> {
    // A parser may ignore a UTF-8 byte order mark (RFC 8259, 8.1).
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body).trim_ascii();
    if body.is_empty() {
        return Err(InvalidAnswer::Empty);
    }
    // No JSON object starts with this character.
    if body.starts_with(b"<") {
        return Err(InvalidAnswer::Html);
    }
    match serde_json::from_slice(body) {
        Ok(object) => Ok(Object(object)),
        Err(error) if error.is_data() => Err(InvalidAnswer::NotJson { line: 1, column: 1 }),
        Err(error) if error.is_eof() => Err(InvalidAnswer::Truncated { length: body.len() }),
        Err(error) => Err(InvalidAnswer::NotJson { line: error.line(), column: error.column() }),
    }
}

/// Returns whether a body is a JSON object or the beginning of one. Every error response of an
/// identity endpoint is a JSON object.
pub(super) fn is_json_object(body: &[u8]) -> bool {
    matches!(object(body), Ok(_) | Err(InvalidAnswer::Truncated { .. }))
}

/// Returns the reason in the body of a refusal, for a message. IMDS calls it `error_description`,
/// App Service `message`, and older endpoints `ExceptionMessage`.
pub(super) fn description(body: &[u8], secret: Option<&str>) -> Option<String> {
    let body = object(body).ok()?;
    let text = |object: &Object<'_>, name: &str| {
        let text = object.text(name)?;
        (!text.trim().is_empty()).then(|| excerpt(&text, secret))
    };
    let nested = |name: &str| text(&object(body.0.get(name)?.get().as_bytes()).ok()?, "message");
    ["error_description", "message", "Message", "ExceptionMessage", "error", "ErrorCode"]
        .iter()
        .find_map(|name| text(&body, name).or_else(|| nested(name)))
}

/// Parses seconds, as a number or as text, with or without a fraction.
fn seconds(value: &Value) -> Option<Duration> {
    let seconds = match value {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => text.trim().parse().ok()?,
        _ => return None,
    };
    Duration::try_from_secs_f64(seconds).ok()
}

/// Parses seconds since 1970, as a number or as text, or a date.
fn point_in_time(value: &Value) -> Option<SystemTime> {
    let since_1970 = match value {
        Value::String(text) => match seconds(value) {
            Some(since_1970) => since_1970,
            None => return date(text.trim()),
        },
        value => seconds(value)?,
    };
    // No token expires later, and the sum must not overflow.
    let year_9999 = Duration::from_secs(253_402_300_799);
    let whole = Duration::from_secs(since_1970.as_secs());
    (since_1970 <= year_9999).then(|| SystemTime::UNIX_EPOCH + whole)
}

/// Parses the forms of dates that endpoints are known to return: `M/d/yyyy H:mm:ss [AM|PM]
/// [offset]` from old versions of App Service, and RFC 3339, with a space allowed instead of the
/// `T`. A date without an offset is in UTC.
fn date(text: &str) -> Option<SystemTime> {
    let format = format_description!(
        version = 2,
        "[first [[month padding:none]/[day padding:none]/[year]] [[year]-[month]-[day]]]\
         [first [T] [ ]][hour padding:none]:[minute]:[second][optional [.[subsecond]]]\
         [optional [ ]][optional [[period case_sensitive:false]]][optional [ ]]\
         [optional [[first [Z] [z] [[offset_hour sign:mandatory][optional [:]]\
         [optional [[offset_minute]]]]]]]"
    );
    let mut parsed = Parsed::new();
    parsed.set_offset_hour(0)?;
    let rest = parsed.parse_items(text.as_bytes(), format).ok()?;
    let hour = match (parsed.hour_24()?, parsed.hour_12_is_pm()) {
        (12, Some(false)) => 0,
        // Some endpoints return 15:04:05 PM.
        (hour @ ..12, Some(true)) => hour + 12,
        (hour, _) => hour,
    };
    parsed.set_hour_24(hour)?;
    let moment = OffsetDateTime::try_from(parsed).ok().filter(|_| rest.is_empty())?;
    let since_1970 = Duration::from_secs(moment.unix_timestamp().try_into().ok()?);
    Some(SystemTime::UNIX_EPOCH + since_1970)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn parse(body: &str) -> Result<Token, InvalidAnswer> {
        token(body.as_bytes(), at(1_000_000))
    }

    fn expiry(expires_on: &str) -> Result<SystemTime, InvalidAnswer> {
        parse(&format!(r#"{{"access_token":"t","expires_on":{expires_on}}}"#))
            .map(|token| token.expires_on())
    }

    #[test]
    fn an_expiry_is_parsed_in_every_form_that_endpoints_return() {
        for (written, seconds) in [
            ("1586984735", 1_586_984_735),
            ("1586984735.9", 1_586_984_735),
            (r#""1586984735""#, 1_586_984_735),
            (r#"" 1586984735 ""#, 1_586_984_735),
            (r#""1586984735.0""#, 1_586_984_735),
            (r#""06/20/2019 02:57:58 +00:00""#, 1_560_999_478),
            (r#""6/20/2019 2:57:58 AM +00:00""#, 1_560_999_478),
            (r#""06/20/2019 02:57:58 PM +00:00""#, 1_561_042_678),
            (r#""6/20/2019 14:57:58 PM +00:00""#, 1_561_042_678),
            (r#""6/20/2019 12:57:58 AM""#, 1_560_992_278),
            (r#""6/20/2019 4:57:58 +02:00""#, 1_560_999_478),
            (r#""2019-06-20T02:57:58Z""#, 1_560_999_478),
            (r#""2019-06-20 02:57:58.123456""#, 1_560_999_478),
            (r#""2019-06-20T02:57:58.123456789Z""#, 1_560_999_478),
            (r#""2019-06-20T02:57:58z""#, 1_560_999_478),
            (r#""2019-06-19T21:27:58-05:30""#, 1_560_999_478),
            (r#""2019-06-19 21:27:58 -0530""#, 1_560_999_478),
            (r#""2019-06-20T04:57:58+02""#, 1_560_999_478),
        ] {
            assert_eq!(expiry(written), Ok(at(seconds)), "{written}");
        }
    }

    #[test]
    fn an_expiry_in_an_unknown_form_is_an_error_that_names_the_field() {
        for written in [
            r#""soon""#,
            r#""2019-13-20T02:57:58Z""#,
            r#""20/6/2019 2:57:58 AM""#,
            r#""6/20/2019 25:57:58""#,
            r#""6/20/2019 2:57:58 XM""#,
            r#""6/20/2019 2:57:58 +99:00""#,
            r#""2019-06-20T02:57:58é""#,
            r#""1900-01-01T00:00:00Z""#,
            "-1",
            "1e300",
            "[]",
            "true",
        ] {
            let error = expiry(written).unwrap_err();
            assert!(matches!(error, InvalidAnswer::Field { field: "expires_on", .. }), "{written}");
        }
    }

    #[test]
    fn without_an_expiry_the_lifetime_counts_from_the_request() {
        for body in [
            r#"{"access_token":"t","expires_in":"3600"}"#,
            r#"{"access_token":"t","expires_in":3600}"#,
            r#"{"access_token":"t","expires_in":3600,"expires_on":""}"#,
            r#"{"access_token":"t","expires_in":3600,"expires_on":null}"#,
        ] {
            assert_eq!(parse(body).unwrap().expires_on(), at(1_003_600), "{body}");
        }
        let both = r#"{"access_token":"t","expires_in":"","expires_on":"1003600"}"#;
        assert_eq!(parse(both).unwrap().expires_on(), at(1_003_600));
        for body in [r#"{"access_token":"t"}"#, r#"{"access_token":"t","expires_in":""}"#] {
            assert!(parse(body).is_err(), "{body}");
        }
    }

    #[test]
    fn the_hosts_hint_becomes_the_refresh_time() {
        let with = |hint: &str| {
            let body = format!(r#"{{"access_token":"t","expires_in":3600,"refresh_in":{hint}}}"#);
            parse(&body).unwrap().refresh_on()
        };
        assert_eq!(with("1800"), Some(at(1_001_800)));
        assert_eq!(with(r#""1800""#), Some(at(1_001_800)));
        // A hint later than the expiry or in an unknown form is ignored.
        for hint in ["7200", r#""""#, r#""soon""#, "-5", "null"] {
            assert_eq!(with(hint), None, "{hint}");
        }
    }

    #[test]
    fn invalid_responses_are_distinguished() {
        use InvalidAnswer::{Empty, Field, Html, NotJson, Truncated};
        assert_eq!(parse("").unwrap_err(), Empty);
        assert_eq!(parse(" \r\n").unwrap_err(), Empty);
        assert_eq!(parse("<!DOCTYPE html><html>").unwrap_err(), Html);
        assert_eq!(parse(r#"{"access_token":"t""#).unwrap_err(), Truncated { length: 19 });
        assert_eq!(parse("{]").unwrap_err(), NotJson { line: 1, column: 2 });
        assert_eq!(parse(r#"["t"]"#).unwrap_err(), NotJson { line: 1, column: 1 });
        assert!(matches!(token(b"\xff\xfe{\0", at(0)), Err(NotJson { .. })));
        for body in [
            r#"{"expires_on":1}"#,
            r#"{"access_token":"","expires_on":1}"#,
            r#"{"access_token":" ","expires_on":1}"#,
            r#"{"access_token":17,"expires_on":1}"#,
            r#"{"access_token":null,"expires_on":1}"#,
        ] {
            let error = parse(body).unwrap_err();
            assert!(matches!(error, Field { field: "access_token", .. }), "{body}");
        }
        let marked = "\u{feff}{\"access_token\":\"t\",\"expires_on\":1}";
        assert_eq!(parse(marked).unwrap().secret(), "t");
    }

    #[test]
    fn the_expiry_in_the_token_is_used_if_the_one_in_the_response_is_unknown() {
        let jwt = "e30.eyJleHAiOjIwMDB9.c2ln";
        for (expiry, seconds) in [
            (r#""expires_on":"1000""#, 1000),
            (r#""expires_on":"27.06.2026 12:14:35 +00:00""#, 2000),
            (r#""expires_on":"soon","expires_in":"60""#, 2000),
            (r#""expires_on":"","expires_in":"""#, 2000),
        ] {
            let body = format!(r#"{{"access_token":"{jwt}",{expiry}}}"#);
            assert_eq!(parse(&body).unwrap().expires_on(), at(seconds), "{expiry}");
        }
    }

    #[test]
    fn a_json_object_is_found_in_other_text() {
        let json = r#"{"a":{"b":1},"token":"t"}"#;
        for text in [
            json.to_owned(),
            format!("WARNING: {{not}} {{\"json\":1}}\n{json}\n\u{1b}[0m"),
            format!("\u{1b}[33m{json}"),
            format!("\u{feff}{{ {json} }}"),
        ] {
            let found = object_with("token", text.as_bytes()).unwrap();
            assert_eq!(*found.secret("token").unwrap(), "t", "{text}");
        }
        assert_eq!(object_with("token", b"text").err(), object(b"text").err());
        assert!(object_with("token", br#"{"other":1}"#).unwrap().secret("token").is_err());
        let many = "{".repeat(64 * 1024) + "\"" + &"{\"a\":".repeat(10_000);
        assert!(object_with("token", many.as_bytes()).is_err());
    }

    #[test]
    fn the_reason_of_a_refusal_is_found_in_every_known_field() {
        let of = |body: &str| description(body.as_bytes(), Some("s3cret"));
        assert_eq!(
            of(r#"{"error":"invalid_request","error_description":"Identity not found"}"#).unwrap(),
            "Identity not found"
        );
        assert_eq!(of(r#"{"statusCode":400,"message":"No\nidentity"}"#).unwrap(), "No identity");
        assert_eq!(of(r#"{"error":{"code":"x","message":"why"}}"#).unwrap(), "why");
        assert_eq!(of(r#"{"error":"unauthorized"}"#).unwrap(), "unauthorized");
        assert_eq!(of(r#"{"message":"got s3cret"}"#).unwrap(), "got [redacted]");
        for nothing in ["", "<html>", "{}", r#"{"message":7}"#] {
            assert_eq!(of(nothing), None, "{nothing}");
        }
    }
}
