//! The image: a static slipring and nothing else, built by buildah and tried by podman, as an operator would run it.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;
use testkit::port::Port;
use testkit::process::scratch;
use testkit::servers::target_folder;
use testkit::wait::{STEP_TIMEOUT, wait_for};
use testkit::{Client, Cluster, Flavor, proxy};

use crate::tool::Tool;

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// What the image may weigh.
const SIZE_BYTES: u64 = 15 << 20;

/// From the start of the process to its first answer.
const START: Duration = Duration::from_millis(100);

/// What the container's drain is given, and what it may take on top: workers that do not end, podman's own work.
const DRAIN: Duration = Duration::from_secs(3);
const DRAIN_MARGIN: Duration = Duration::from_secs(5);

/// The one name server of the container.
const NAME_SERVER: &str = "127.0.0.53";

/// One container and the storage of its image, which go when dropped.
struct Container<'a> {
    storage: &'a Storage,
    name: &'static str,
}

/// A place of our own for images, away from those of this machine.
struct Storage {
    folder: TempDir,
}

/// Builds the image, tries it, and leaves it in `target/image`.
///
/// # Errors
/// The first promise that it does not keep.
pub(crate) fn run() -> Result<bool> {
    let archive = target_folder().join("image/slipring.tar");
    let storage = Storage {
        folder: scratch("image")?,
    };
    let binary = static_binary()?;
    storage.build(&binary, &archive)?;
    let size = fs::metadata(&archive)?.len();
    ensure!(size < SIZE_BYTES, "the image has {size} bytes");
    println!(
        "image: {:.1} MiB, {}; `podman load -i` takes it",
        size as f64 / f64::from(1 << 20),
        archive.canonicalize()?.display()
    );
    let (started, drained) = storage.serves()?;
    println!("as PID 1, not as root, nothing writable: first answer after {started:?}, names resolved");
    println!("podman stop: drained after {drained:?}, with a client that never ends; exit code 0");
    ensure!(started < START, "it starts slower than {START:?}");
    Ok(true)
}

/// The program, linked with everything it needs.
pub(crate) fn static_binary() -> Result<PathBuf> {
    let args = ["build", "--release", "--package", "slipring", "--target", TARGET];
    let build = Tool::cargo(&args).env("RUSTFLAGS", "-C target-feature=+crt-static");
    ensure!(build.passes()?, "slipring does not build");
    Ok(target_folder().join(TARGET).join("release/slipring"))
}

// === impl Storage ===

impl Storage {
    /// The Containerfile's last stage, over a binary that was built here: the first stage needs an image of Rust, and
    /// does the same.
    fn build(&self, binary: &Path, archive: &Path) -> Result<()> {
        let built = self.folder.path().join("built");
        let place = built.join("src/target").join(TARGET).join("release");
        fs::create_dir_all(&place)?;
        fs::create_dir_all(archive.parent().expect("in a folder"))?;
        let stripped = place.join("slipring");
        Tool::new("strip", &["-o", text(&stripped), text(binary)]).output()?;
        let build = format!("build={}", built.display());
        let args = [
            "bud",
            "--isolation",
            "chroot",
            "--build-context",
            &build,
            "--file",
            "deploy/image/Containerfile",
            "--tag",
            "slipring",
            text(&built),
        ];
        self.tool("buildah", &args).output()?;
        let _ = fs::remove_file(archive);
        let to = format!("docker-archive:{}:slipring:latest", archive.display());
        self.tool("buildah", &["push", "--quiet", "slipring", &to])
            .output()
            .map(drop)
    }

    /// How long the container took to its first answer, and to its end once it was told to stop.
    fn serves(&self) -> Result<(Duration, Duration)> {
        let cluster = Cluster::builder(Flavor::Redis).nodes(2).start()?;
        let (clients, admin) = (Port::free()?, Port::free()?);
        let sentinels = cluster.sentinel_list().replace("127.0.0.1", "sentinel.test");
        let env = [
            format!("SLIPRING_SENTINELS={sentinels}"),
            format!("SLIPRING_LISTEN={}", clients.address()),
            format!("SLIPRING_METRICS_LISTEN={}", admin.address()),
            format!("SLIPRING_DRAIN_TIMEOUT={}s", DRAIN.as_secs()),
        ];
        answer_names()?;
        let container = Container {
            storage: self,
            name: "slipring-tried",
        };
        // Somebody asks from before the start on: podman has some work left when slipring serves already.
        let address = admin.address();
        let answered = std::thread::spawn(move || first_answer(address));
        container.start(&env)?;
        let up = answered.join().expect("it returns what goes wrong");
        let up = up.with_context(|| container.log())?;
        let pid = container.ask("{{.State.Pid}}")?;
        let started = Duration::from_secs_f64((up - born(&pid)?).max(0.0));
        ensure!(
            inside(&pid)? == ("1".to_owned(), "65532".to_owned()),
            "as PID {:?} and user",
            inside(&pid)?
        );

        let ready = || match proxy::get(admin.address(), "/readyz")? {
            (200, _) => Ok(()),
            (status, body) => anyhow::bail!("{status}: {body}"),
        };
        wait_for("it to find the sentinels by name", Duration::from_secs(20), ready)
            .with_context(|| container.log())?;
        let mut client = Client::connect(clients.address())?;
        let answer = client.command(&["SET", "key", "value"])?;
        ensure!(answer.text() == Some("OK"), "{answer:?}");
        // It never ends by itself: a drain has to.
        client.command(&["MULTI"])?;
        client.command(&["SET", "key", "other"])?;
        let asked = Instant::now();
        self.tool("podman", &["stop", "--time", "60", container.name])
            .output()?;
        let drained = asked.elapsed();
        let code = container.ask("{{.State.ExitCode}}")?;
        ensure!(code == "0", "exit code {code}\n{}", container.log());
        ensure!(drained < DRAIN + DRAIN_MARGIN, "the drain took {drained:?}");
        Ok((started, drained))
    }

    /// buildah and podman over this storage. They need neither a service nor user namespaces.
    fn tool(&self, program: &str, args: &[&str]) -> Tool {
        let (root, run) = (self.folder.path().join("r"), self.folder.path().join("x"));
        let own = [
            "--storage-driver",
            "vfs",
            "--root",
            text(&root),
            "--runroot",
            text(&run),
        ];
        Tool::new(program, &[&own, args].concat())
    }
}

// === impl Container ===

impl Container<'_> {
    /// As hardened as it can be run.
    fn start(&self, env: &[String]) -> Result<()> {
        let mut args = vec!["--events-backend", "file", "--cgroup-manager", "cgroupfs"];
        // crun refuses hybrid cgroups, runc takes what there is.
        if Tool::new("runc", &["--version"]).works() {
            args.extend(["--runtime", "runc"]);
        }
        args.extend(["run", "--detach", "--name", self.name, "--network", "host"]);
        args.extend(["--dns", NAME_SERVER, "--read-only", "--read-only-tmpfs=false"]);
        args.extend(["--cap-drop", "all", "--security-opt", "no-new-privileges"]);
        args.extend(["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000"]);
        env.iter().for_each(|variable| args.extend(["--env", variable]));
        args.push("localhost/slipring");
        self.storage.tool("podman", &args).output().map(drop)
    }

    fn ask(&self, format: &str) -> Result<String> {
        let told = self
            .storage
            .tool("podman", &["inspect", "--format", format, self.name])
            .output()?;
        Ok(told.trim().to_owned())
    }

    fn log(&self) -> String {
        let log = self.storage.tool("podman", &["logs", self.name]).output();
        log.unwrap_or_default()
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        let args = ["rm", "--force", "--time", "1", self.name];
        let _ = self.storage.tool("podman", &args).output();
    }
}

/// A name server that knows one address, for as long as this process lives.
fn answer_names() -> Result<()> {
    let socket =
        UdpSocket::bind((NAME_SERVER, 53)).context("a name server for the test needs port 53: root")?;
    std::thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((len, from)) = socket.recv_from(&mut query) {
            if let Some(answer) = query.get(..len).and_then(resolved) {
                let _ = socket.send_to(&answer, from);
            }
        }
    });
    Ok(())
}

/// 127.0.0.1 for a question after an IPv4 address, nothing for others.
fn resolved(query: &[u8]) -> Option<Vec<u8>> {
    const HEADER: usize = 12;
    let name = query.get(HEADER..)?.iter().position(|byte| *byte == 0)?;
    let end = HEADER + name + 5;
    let is_ipv4 = query.get(end - 4..end)? == [0, 1, 0, 1];
    let mut answer = query.get(..2)?.to_vec();
    answer.extend([0x81, 0x80, 0, 1, 0, u8::from(is_ipv4), 0, 0, 0, 0]);
    answer.extend(query.get(HEADER..end)?);
    if is_ipv4 {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
    }
    Some(answer)
}

/// When somebody who asks without a pause was answered first, in the count of [`uptime`].
fn first_answer(admin: SocketAddr) -> Result<f64> {
    let deadline = Instant::now() + STEP_TIMEOUT;
    while proxy::get(admin, "/healthz").is_err() {
        ensure!(Instant::now() < deadline, "no answer within {STEP_TIMEOUT:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
    uptime()
}

/// Seconds since the machine started.
fn uptime() -> Result<f64> {
    let text = fs::read_to_string("/proc/uptime")?;
    Ok(text.split(' ').next().unwrap_or_default().parse()?)
}

/// When the process was started, in the same count.
fn born(pid: &str) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, behind_name) = stat.rsplit_once(") ").context("/proc/PID/stat has no name")?;
    let ticks: f64 = behind_name.split(' ').nth(19).context("no start time")?.parse()?;
    // The kernel tells it in hundredths of a second, on every machine.
    Ok(ticks / 100.0)
}

/// Its pid in its own namespace, and its user.
fn inside(pid: &str) -> Result<(String, String)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let fields = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_default().split_whitespace()
    };
    let (pid, user) = (fields("NSpid:").next_back(), fields("Uid:").next());
    Ok((
        pid.unwrap_or_default().to_owned(),
        user.unwrap_or_default().to_owned(),
    ))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths of this project are plain text")
}
