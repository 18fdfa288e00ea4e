//! A real browser: Chromium without a window, driven through its own driver.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use fantoccini::error::CmdError;
use fantoccini::wd::WebDriverCompatibleCommand;
use fantoccini::{Client, ClientBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::eventually::{PATIENCE, eventually};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const AXE: &str = include_str!("../web/axe.min.js");

/// Each takes a processor for a while.
static AT_ONCE: Semaphore = Semaphore::const_new(2);

/// A browser with a profile of its own. To be [closed](Self::close); where a test fails before that, its driver is
/// killed, and it ends with the pipe to its driver.
#[derive(Debug)]
pub(crate) struct Browser {
    client: Client,
    driver: Child,
    profile: TempDir,
    _permit: SemaphorePermit<'static>,
}

/// What a page is to find: a device, and its owner's wishes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    pub(crate) width: u32,
    pub(crate) scheme: &'a str,
    pub(crate) forced_colors: bool,
}

impl Reader<'_> {
    pub(crate) const DESKTOP: Reader<'static> = Reader {
        width: 1280,
        scheme: "light",
        forced_colors: false,
    };
}

impl Browser {
    pub(crate) async fn open() -> Self {
        let permit = AT_ONCE.acquire().await.expect("never closed");
        let profile = TempDir::new().expect("a temporary directory");
        let mut driver = Command::new(driver_path())
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("chromedriver can be run");
        let mut said = BufReader::new(driver.stdout.take().expect("piped above")).lines();
        let port = loop {
            let line = said.next_line().await.expect("its output");
            let line = line.expect("chromedriver says on which port it listens");
            if let Some((_, port)) = line.split_once("started successfully on port ") {
                break port.trim_end_matches('.').to_owned();
            }
        };
        tokio::spawn(async move { while let Ok(Some(_)) = said.next_line().await {} });
        let mut arguments = vec![
            "--headless=new".to_owned(),
            // So that it ends with its driver, whatever ends that.
            "--remote-debugging-pipe".to_owned(),
            "--disable-gpu".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--hide-scrollbars".to_owned(),
            format!("--user-data-dir={}", profile.path().display()),
        ];
        // Its sandbox refuses root.
        if is_root() {
            arguments.push("--no-sandbox".to_owned());
        }
        let capabilities = json!({"goog:chromeOptions": {"args": arguments}});
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities.as_object().expect("an object").clone())
            .connect(&format!("http://127.0.0.1:{port}"))
            .await
            .expect("a session");
        Self {
            client,
            driver,
            profile,
            _permit: permit,
        }
    }

    /// Opens a page for a reader.
    pub(crate) async fn show(&self, url: &str, reader: Reader<'_>) {
        let size =
            json!({"width": reader.width, "height": 900, "deviceScaleFactor": 1, "mobile": false});
        self.cdp("Emulation.setDeviceMetricsOverride", size).await;
        let forced = if reader.forced_colors {
            "active"
        } else {
            "none"
        };
        let features = json!({"features": [
            {"name": "prefers-color-scheme", "value": reader.scheme},
            {"name": "forced-colors", "value": forced},
        ]});
        self.cdp("Emulation.setEmulatedMedia", features).await;
        self.client.goto(url).await.expect("the page is opened");
        // Else a key may come before the page has the focus.
        self.cdp("Page.bringToFront", json!({})).await;
        let always = json!({"enabled": true});
        self.cdp("Emulation.setFocusEmulationEnabled", always).await;
        self.until("return document.hasFocus()", true.into()).await;
    }

    /// What a script of the test's returns.
    pub(crate) async fn js(&self, script: &str) -> Value {
        self.client
            .execute(script, Vec::new())
            .await
            .unwrap_or_else(|error| panic!("{script}: {error}"))
    }

    /// Waits until a script returns this.
    pub(crate) async fn until(&self, script: &str, wanted: Value) {
        let look = async || self.js(script).await;
        eventually(script, PATIENCE, look, |seen| *seen == wanted).await;
    }

    /// Presses a key on whatever has the focus.
    pub(crate) async fn press_tab(&self) {
        for kind in ["keyDown", "keyUp"] {
            let key =
                json!({"type": kind, "key": "Tab", "code": "Tab", "windowsVirtualKeyCode": 9});
            self.cdp("Input.dispatchKeyEvent", key).await;
        }
    }

    /// What axe-core finds wrong on the page: rule and element, one a line.
    pub(crate) async fn found_by_axe(&self) -> Vec<String> {
        self.js(AXE).await;
        let run = "const done = arguments[arguments.length - 1];
            axe.run().then((results) => done(results.violations.flatMap((violation) =>
                violation.nodes.map((node) => `${violation.id}: ${node.target} ${node.failureSummary}`))),
                (error) => done([String(error)]));";
        let found = self.client.execute_async(run, Vec::new()).await;
        serde_json::from_value(found.expect("axe runs")).expect("a list of texts")
    }

    /// The whole page, into `target/screenshots/`: to be looked at by a person.
    pub(crate) async fn picture(&self, name: &str) {
        let size = self
            .js("return [document.documentElement.clientWidth, document.documentElement.scrollHeight]")
            .await;
        let clip = json!({"x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1});
        let picture = json!({"captureBeyondViewport": true, "clip": clip});
        let picture = self.cdp("Page.captureScreenshot", picture).await;
        let picture = picture["data"].as_str().expect("a picture");
        let picture = BASE64_STANDARD.decode(picture).expect("base64");
        let folder = Path::new(ROOT).join("target/screenshots");
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::write(folder.join(format!("{name}.png")), picture).expect("written");
    }

    /// Ends it, and sees to it that nothing is left.
    pub(crate) async fn close(mut self) {
        self.client.clone().close().await.expect("it can be closed");
        self.driver.kill().await.expect("our child can be killed");
        let profile = self.profile.path().display().to_string();
        let left = async || processes_with(&profile);
        eventually("the browser has ended", PATIENCE, left, Vec::is_empty).await;
    }

    async fn cdp(&self, method: &'static str, params: Value) -> Value {
        self.client
            .issue_cmd(Devtools { method, params })
            .await
            .unwrap_or_else(|error: CmdError| panic!("{method}: {error}"))
    }
}

/// Chromedriver's own command for what WebDriver has no command for.
#[derive(Debug)]
struct Devtools {
    method: &'static str,
    params: Value,
}

impl WebDriverCompatibleCommand for Devtools {
    fn endpoint(
        &self,
        base: &url::Url,
        session: Option<&str>,
    ) -> Result<url::Url, url::ParseError> {
        base.join(&format!(
            "session/{}/goog/cdp/execute",
            session.unwrap_or_default()
        ))
    }

    fn method_and_body(&self, _: &url::Url) -> (axum::http::Method, Option<String>) {
        let body = json!({"cmd": self.method, "params": self.params});
        (axum::http::Method::POST, Some(body.to_string()))
    }
}

/// Where chromedriver is; it is installed first where it is missing.
fn driver_path() -> &'static PathBuf {
    static DRIVER: OnceLock<PathBuf> = OnceLock::new();
    DRIVER.get_or_init(|| {
        let output = std::process::Command::new(Path::new(ROOT).join("deploy/local.sh"))
            .arg("browser")
            .output()
            .expect("deploy/local.sh can be run");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "local.sh browser: {said}");
        let path = String::from_utf8(output.stdout).expect("UTF-8");
        path.trim().into()
    })
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").is_ok_and(|this| this.uid() == 0)
}

/// The command lines that name this directory.
fn processes_with(directory: &str) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").expect("a list of processes");
    processes
        .filter_map(|process| std::fs::read(process.ok()?.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(directory))
        .collect()
}
