use std::{
    io::{Read, Write},
    net::TcpStream,
    process::Command,
    time::{Duration, Instant},
};

use reqwest::Method;
use serde_json::{Value, json};

use crate::Process;

/// Headless Chromium, driven by chromedriver (W3C WebDriver), both from Debian's package
/// `chromium-driver`. They stop when this is dropped.
pub struct Browser {
    // Dropped after the session, which `Drop` ends.
    _driver: Process,
    port: u16,
    session: String,
    client: reqwest::Client,
}

/// The key of an element's ID in responses (W3C WebDriver, 12.1).
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

impl Browser {
    /// Starts a browser with a window of 1,000 by 800. Commands wait up to 10 s for their element.
    pub async fn start() -> Self {
        let started = "ChromeDriver was started successfully on port ";
        let mut command = Command::new("chromedriver");
        let (driver, port) = Process::start(command.arg("--port=0"), started).await;
        let port = port.trim_end_matches('.').parse().expect("a port number");
        let client = reqwest::Client::builder().no_proxy().build().expect("a TLS provider");
        let mut browser = Self { _driver: driver, port, session: String::new(), client };
        let options = json!({
            "args": [
                "--headless=new",
                "--window-size=1000,800",
                // The browser shows only pages of the test, and root has no sandbox.
                "--no-sandbox",
                "--disable-dev-shm-usage",
                "--hide-scrollbars",
                // The browser connects only to loopback.
                "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            ]
        });
        let capabilities = json!({
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": { "browser": "ALL" },
            "timeouts": { "implicit": 10_000 },
        });
        let request = json!({ "capabilities": { "alwaysMatch": capabilities } });
        let session = browser.command(Method::POST, "", Some(request)).await;
        browser.session = format!("/{}", session["sessionId"].as_str().expect("a session ID"));
        browser
    }

    /// Opens a page and waits until it is loaded.
    pub async fn open(&self, url: &str) {
        self.command(Method::POST, "/url", Some(json!({ "url": url }))).await;
    }

    /// The page's title.
    pub async fn title(&self) -> String {
        text(self.command(Method::GET, "/title", None).await)
    }

    /// Clicks on the first element that matches the CSS selector.
    pub async fn click(&self, selector: &str) {
        let element = self.element(selector).await;
        self.command(Method::POST, &format!("{element}/click"), Some(json!({}))).await;
    }

    /// Clicks on an element that opens another page, and waits until this page is gone.
    pub async fn follow(&self, selector: &str) {
        let page = self.element("html").await;
        self.click(selector).await;
        let began = Instant::now();
        while self.ask(Method::GET, &format!("{page}/name"), None).await.is_ok() {
            assert!(began.elapsed() < Duration::from_secs(10), "{selector} opens no other page");
        }
    }

    /// Types into an element; into a file input, the path of a file.
    pub async fn type_into(&self, selector: &str, text: &str) {
        let element = self.element(selector).await;
        let keys = json!({ "text": text });
        self.command(Method::POST, &format!("{element}/value"), Some(keys)).await;
    }

    /// The text that an element shows.
    pub async fn text(&self, selector: &str) -> String {
        let element = self.element(selector).await;
        text(self.command(Method::GET, &format!("{element}/text"), None).await)
    }

    /// The value of an element's property, such as the `value` of an `<input>` or the
    /// `naturalWidth` of an `<img>`.
    pub async fn property(&self, selector: &str, property: &str) -> Value {
        let element = self.element(selector).await;
        self.command(Method::GET, &format!("{element}/property/{property}"), None).await
    }

    /// Runs a script as the body of a function, and returns the function's result.
    pub async fn run(&self, script: &str) -> Value {
        let script = json!({ "script": script, "args": [] });
        self.command(Method::POST, "/execute/sync", Some(script)).await
    }

    /// Runs a script as the body of a function that passes its result to its last argument.
    pub(crate) async fn run_async(&self, script: &str) -> Value {
        let script = json!({ "script": script, "args": [] });
        self.command(Method::POST, "/execute/async", Some(script)).await
    }

    /// Waits until the images of the page are loaded, including those further down, which
    /// browsers load when the page is scrolled.
    pub async fn load_images(&self) {
        let load = "const done = arguments[arguments.length - 1];
            for (const image of document.images) image.loading = 'eager';
            Promise.all([...document.images].map(image => image.decode())).then(
                () => done(null), error => done(String(error)))";
        assert_eq!(self.run_async(load).await, Value::Null);
    }

    /// Runs a command of the Chrome DevTools Protocol.
    pub(crate) async fn devtools(&self, command: &str, parameters: Value) -> Value {
        let command = json!({ "cmd": command, "params": parameters });
        self.command(Method::POST, "/goog/cdp/execute", Some(command)).await
    }

    /// The errors that the browser logged since the last call: failed scripts, and requests that
    /// failed or that a policy forbids.
    pub async fn logged_errors(&self) -> Vec<String> {
        let kind = json!({ "type": "browser" });
        let log = self.command(Method::POST, "/se/log", Some(kind)).await;
        let severe = |entry: &&Value| entry["level"] == "SEVERE";
        let entries = log.as_array().expect("a list of entries").iter().filter(severe);
        entries.map(|entry| text(entry["message"].clone())).collect()
    }

    async fn element(&self, selector: &str) -> String {
        let request = json!({ "using": "css selector", "value": selector });
        let found = self.command(Method::POST, "/element", Some(request)).await;
        format!("/element/{}", found[ELEMENT].as_str().expect("the element has an ID"))
    }

    async fn command(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        self.ask(method, path, body).await.unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// The driver's response, or its error.
    async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value, Value> {
        let url = format!("http://127.0.0.1:{}/session{}{path}", self.port, self.session);
        let mut request = self.client.request(method, url);
        if let Some(body) = &body {
            request = request.body(body.to_string());
        }
        let answer = request.send().await.expect("chromedriver answers");
        let status = answer.status();
        let answer = answer.text().await.expect("the response is complete");
        let mut answer: Value = serde_json::from_str(&answer).expect("the response is JSON");
        let value = answer["value"].take();
        if status.is_success() { Ok(value) } else { Err(value) }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Killing the driver would not stop the browser. `drop` cannot await, and the response does
        // not matter.
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
        other => panic!("{other} is not text"),
    }
}
