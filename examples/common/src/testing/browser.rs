use std::{
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use reqwest::Method;
use serde_json::{Value, json};

use super::process::Process;

/// Headless Chromium, driven by chromedriver (W3C WebDriver); both are of Debian's
/// `chromium-driver`. It ends when this goes.
pub struct Browser {
    // Dropped behind the session, which `Drop` ends.
    _driver: Process,
    port: u16,
    session: String,
    client: reqwest::Client,
}

/// How an element is named in answers (W3C WebDriver, 12.1).
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

impl Browser {
    /// Starts it, with a window of 1,000 by 800. An element that is not there is waited
    /// for, for 10 s.
    pub async fn start() -> Self {
        let started = "ChromeDriver was started successfully on port ";
        let mut command = Command::new("chromedriver");
        let (driver, port) = Process::start(command.arg("--port=0"), started).await;
        let port = port.trim_end_matches('.').parse().expect("it is a port");
        let client = reqwest::Client::builder().no_proxy().build().expect("it has TLS");
        let mut browser = Self { _driver: driver, port, session: String::new(), client };
        let options = json!({
            "args": [
                "--headless=new",
                "--window-size=1000,800",
                // It shows pages of ours only; as root there is no sandbox.
                "--no-sandbox",
                "--disable-dev-shm-usage",
                // Nothing but loopback is asked for anything.
                "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            ]
        });
        let capabilities = json!({
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": { "browser": "ALL" },
            "timeouts": { "implicit": 10_000 },
        });
        let asked = json!({ "capabilities": { "alwaysMatch": capabilities } });
        let session = browser.command(Method::POST, "", Some(asked)).await;
        browser.session = format!("/{}", session["sessionId"].as_str().expect("it has an ID"));
        browser
    }

    /// Goes to a page, and waits until it is loaded.
    pub async fn open(&self, url: &str) {
        self.command(Method::POST, "/url", Some(json!({ "url": url }))).await;
    }

    /// The page's title.
    pub async fn title(&self) -> String {
        text(self.command(Method::GET, "/title", None).await)
    }

    /// Clicks on the first element that the CSS selector fits.
    pub async fn click(&self, selector: &str) {
        let element = self.element(selector).await;
        self.command(Method::POST, &format!("{element}/click"), Some(json!({}))).await;
    }

    /// Clicks on what leads to another page, and waits until this one is left.
    pub async fn follow(&self, selector: &str) {
        let page = self.element("html").await;
        self.click(selector).await;
        let began = Instant::now();
        while self.ask(Method::GET, &format!("{page}/name"), None).await.is_ok() {
            assert!(began.elapsed() < Duration::from_secs(10), "{selector} leads nowhere");
        }
    }

    /// Types into an element; of one for files, the path of a file.
    pub async fn type_into(&self, selector: &str, text: &str) {
        let element = self.element(selector).await;
        let keys = json!({ "text": text });
        self.command(Method::POST, &format!("{element}/value"), Some(keys)).await;
    }

    /// What an element shows.
    pub async fn text(&self, selector: &str) -> String {
        let element = self.element(selector).await;
        text(self.command(Method::GET, &format!("{element}/text"), None).await)
    }

    /// The value of an element's property, as of an `<input>`'s `value` or an `<img>`'s
    /// `naturalWidth`.
    pub async fn property(&self, selector: &str, property: &str) -> Value {
        let element = self.element(selector).await;
        self.command(Method::GET, &format!("{element}/property/{property}"), None).await
    }

    /// Writes a picture of the window to a file, as PNG.
    pub async fn screenshot(&self, path: &Path) {
        let picture = text(self.command(Method::GET, "/screenshot", None).await);
        let picture = BASE64_STANDARD.decode(picture).expect("it is base64");
        assert!(picture.starts_with(b"\x89PNG"), "it is a PNG");
        std::fs::write(path, picture).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    }

    /// What the browser has complained of since this was last asked for: scripts that
    /// fail, what a policy forbids, what does not load.
    pub async fn complaints(&self) -> Vec<String> {
        let kind = json!({ "type": "browser" });
        let log = self.command(Method::POST, "/se/log", Some(kind)).await;
        let severe = |entry: &&Value| entry["level"] == "SEVERE";
        let entries = log.as_array().expect("it is a list").iter().filter(severe);
        entries.map(|entry| text(entry["message"].clone())).collect()
    }

    async fn element(&self, selector: &str) -> String {
        let asked = json!({ "using": "css selector", "value": selector });
        let found = self.command(Method::POST, "/element", Some(asked)).await;
        format!("/element/{}", found[ELEMENT].as_str().expect("it has an ID"))
    }

    async fn command(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        self.ask(method, path, body).await.unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// The driver's answer, or its error.
    async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value, Value> {
        let url = format!("http://127.0.0.1:{}/session{}{path}", self.port, self.session);
        let mut request = self.client.request(method, url);
        if let Some(body) = &body {
            request = request.body(body.to_string());
        }
        let answer = request.send().await.expect("chromedriver answers");
        let status = answer.status();
        let answer = answer.text().await.expect("it ends");
        let mut answer: Value = serde_json::from_str(&answer).expect("it is JSON");
        let value = answer["value"].take();
        if status.is_success() { Ok(value) } else { Err(value) }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Killing the driver would leave the browser. Here nothing can be awaited, and
        // nobody cares for what is answered.
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)) else { return };
        let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
        let session = &self.session;
        let request = format!(
            "DELETE /session{session} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
        );
        let _ = stream.write_all(request.as_bytes());
        let _ = stream.read(&mut [0; 1024]);
    }
}

fn text(value: Value) -> String {
    match value {
        Value::String(text) => text,
        other => panic!("{other} is no text"),
    }
}
