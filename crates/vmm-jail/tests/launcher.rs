//! The program: what it becomes has what was left to it and lacks what was taken; a step that fails is the end of the start.
//! It needs root, which may take every step.

use std::path::PathBuf;
use std::process::{Command, Output};

const EXIT_STATUS: i32 = 96;

/// A directory that is removed at the end.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Place {
        let path = std::env::temp_dir().join(format!("forkd-jail-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a directory");
        Place(path)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).expect("removed");
    }
}

fn run(place: &Place, more: &[&str], script: &str) -> Output {
    let dir = place.0.to_str().expect("a plain path");
    let socket = format!("{dir}/shim.sock");
    let shim = std::fs::canonicalize("/lib/x86_64-linux-gnu/libm.so.6").expect("a library");
    let shim = shim.to_str().expect("a plain path");
    let given = ["run", "--dir", dir, "--shim", shim, "--pager-socket", &socket];
    Command::new(env!("CARGO_BIN_EXE_forkd-jail"))
        .args(given)
        .args(["--root-image", "/dev/null", "--mem-bytes", "4096"])
        .args(more)
        .args(["--", "perl", "-e", script])
        .output()
        .expect("it starts")
}

fn text(output: &Output) -> (String, String) {
    let of = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (of(&output.stdout), of(&output.stderr))
}

#[test]
fn the_program_has_the_launchers_pid_and_is_a_user_of_that_number() {
    let place = Place::new("user");
    let steps = ["--steps", "no_capabilities,own_user,no_new_privs"];
    let output = run(
        &place,
        &steps,
        r#"print $< - $$, " ", $( + 0 - $$, " ", $0, " ", -s "/proc/self/fd/100""#,
    );
    let (stdout, stderr) = text(&output);
    assert_eq!(stdout, "1879048192 1879048192 -e 4096", "{stderr}");
}

#[test]
fn in_a_root_of_its_own_a_program_runs_and_the_hosts_files_are_not_there() {
    let place = Place::new("root");
    let script = r#"print join ",", map { -e $_ ? 1 : 0 } "/usr", "/dev/null", "/pager", "/etc/passwd", "/tmp", $ARGV[0]; mkdir "/x" or print ",", $!+0"#;
    let output = run(&place, &["--steps", "mount_namespace"], script);
    let (stdout, stderr) = text(&output);
    assert_eq!(stdout, format!("1,1,1,0,0,0,{}", libc::EROFS), "{stderr}");
    // What was made on top of the directory is seen there alone.
    let mut names: Vec<_> = std::fs::read_dir(&place.0)
        .expect("a directory")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["channel.sock", "console.log", "monitor.sock", "pager.sock"]);
}

#[test]
fn a_write_beyond_the_limit_is_an_error_and_not_the_end() {
    let place = Place::new("limit");
    let script = r#"open my $f, ">&=", 103; seek $f, 0, 2; my $n = syswrite $f, "x" x 20; print $n, " ", syswrite($f, "x") // $!+0"#;
    std::fs::write(place.0.join("console.log"), "").expect("a file");
    let console = std::fs::File::options().write(true).open(place.0.join("console.log"));
    console
        .and_then(|file| file.set_len((16 << 20) - 10))
        .expect("its size");
    let output = run(&place, &["--steps", "resource_limits"], script);
    let (stdout, stderr) = text(&output);
    assert_eq!(stdout, format!("10 {}", libc::EFBIG), "{stderr}");
}

#[test]
fn a_step_that_fails_ends_the_start() {
    let place = Place::new("refused");
    let output = run(&place, &["--cgroup", "/nowhere"], "print 1");
    let (stdout, stderr) = text(&output);
    assert_eq!((output.status.code(), stdout.as_str()), (Some(EXIT_STATUS), ""));
    assert!(stderr.contains("/nowhere/cgroup.procs"), "{stderr}");
    let output = run(&place, &["--steps", "moon"], "print 1");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output).1.contains("moon"));
}

#[test]
fn a_library_that_the_vmm_could_not_read_is_refused_before_it_is_started() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new("shim");
    let secret = place.0.join("shim.so");
    std::fs::write(&secret, "").expect("a file");
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).expect("its mode");
    let output = run(&place, &["--shim", secret.to_str().expect("a plain path")], "print 1");
    assert_eq!(output.status.code(), Some(EXIT_STATUS));
    assert!(text(&output).1.contains("chmod a+r"), "{}", text(&output).1);
}
