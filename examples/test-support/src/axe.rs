//! Checks accessibility with axe-core.

use std::{env, fs, path::Path};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::json;

use crate::Browser;

/// `tests/install` installs axe-core at this path.
const AXE: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/axe/node_modules/axe-core/axe.min.js");

/// Runs axe-core with all of its rules, and returns its findings to a callback.
const RUN: &str = "const done = arguments[arguments.length - 1];
    axe.run().then(
        results => done(results.violations.map(violation =>
            `${violation.id}: ${violation.nodes.map(node => node.html).join(', ')}`)),
        error => done([String(error)]))";

impl Browser {
    /// Asserts that axe-core finds no problems on the page at widths of 360 and 1,280 pixels,
    /// light and dark, and that the page is not wider than its window. If axe-core is not
    /// installed, this is skipped with a message, except in a workflow, where it panics.
    pub async fn is_accessible(&self) {
        let axe = Path::new(AXE);
        if !axe.exists() {
            let in_workflow = env::var_os("GITHUB_ACTIONS").is_some();
            assert!(!in_workflow, "axe-core is not installed (run tests/install)");
            eprintln!("skipped: axe-core is not installed (run tests/install)");
            return;
        }
        let axe = fs::read_to_string(axe).expect("a readable file");
        self.run(&axe).await;
        for width in [360, 1_280] {
            for scheme in ["light", "dark"] {
                self.look(width, scheme).await;
                let found = self.run_async(RUN).await;
                assert_eq!(found, json!([]), "at {width} pixels, {scheme}");
                let overflow = "return document.documentElement.scrollWidth - innerWidth";
                let overflow = self.run(overflow).await;
                assert!(overflow.as_i64() <= Some(0), "{overflow} pixels too wide at {width}");
            }
        }
        self.look(800, "light").await;
    }

    /// Shows the page at this width, and in the colour scheme `light` or `dark`.
    pub async fn look(&self, width: u32, scheme: &str) {
        let size = json!({
            "width": width, "height": 400, "deviceScaleFactor": 1, "mobile": false
        });
        self.devtools("Emulation.setDeviceMetricsOverride", size).await;
        let scheme = json!({ "name": "prefers-color-scheme", "value": scheme });
        let motion = json!({ "name": "prefers-reduced-motion", "value": "reduce" });
        self.devtools("Emulation.setEmulatedMedia", json!({ "features": [scheme, motion] })).await;
    }

    /// Renders the whole page as PNG. With `ENTRA_POOL_BLESS=1`, writes it to a file that a README
    /// shows.
    pub async fn screenshot(&self, path: &Path) {
        let metrics = self.devtools("Page.getLayoutMetrics", json!({})).await;
        let mut clip = metrics["cssContentSize"].clone();
        clip["scale"] = 1.into();
        let whole = json!({ "captureBeyondViewport": true, "clip": clip });
        let png = self.devtools("Page.captureScreenshot", whole).await;
        let png = BASE64_STANDARD.decode(png["data"].as_str().expect("the picture is text"));
        let png = png.expect("the picture is Base64");
        assert!(png.starts_with(b"\x89PNG"), "not a PNG");
        if env::var("ENTRA_POOL_BLESS").is_ok_and(|bless| bless == "1") {
            assert!(png.len() < 100 * 1024, "{path:?} would have {} bytes", png.len());
            let folder = path.parent().expect("the path has a folder");
            fs::create_dir_all(folder).expect("the folder can be created");
            fs::write(path, png).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        }
    }
}
