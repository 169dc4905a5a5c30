//! `slipway images`.

use super::support::TestEnv;

#[test]
fn an_empty_store_is_a_table_without_rows() {
    let env = TestEnv::new();
    assert_eq!(env.slipway(["images"]).success(), "REPOSITORY   TAG   IMAGE ID   CREATED   SIZE\n");
    assert_eq!(env.slipway(["images", "-q"]).success(), "");
    assert_eq!(env.slipway(["images", "--format", "json"]).success(), "");
}

#[test]
fn images_are_listed_as_docker_does() {
    let env = TestEnv::with_busybox();
    env.slipway(["tag", "busybox", "localhost:5000/tools/bb:1"]).success();
    let table = env.slipway(["images"]).success();
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(
        lines[0].split_whitespace().collect::<Vec<_>>(),
        ["REPOSITORY", "TAG", "IMAGE", "ID", "CREATED", "SIZE"]
    );
    assert!(lines[1..].iter().any(|line| line.starts_with("localhost:5000/tools/bb   1        ")), "{table}");
    assert!(lines[1..].iter().all(|line| line.ends_with("MB") && line.contains(" ago ")), "{table}");

    let json = env.slipway(["images", "--format", "json", "busybox"]).success();
    let row: serde_json::Value = serde_json::from_str(&json).expect("one line");
    assert_eq!((row["Repository"].as_str(), row["Tag"].as_str()), (Some("busybox"), Some("latest")));
    assert_eq!(row["ID"].as_str().map(str::len), Some(12));
    assert_eq!(row["Digest"], "<none>");

    let ids = env.slipway(["images", "-q", "--no-trunc"]).success();
    assert!(ids.lines().count() == 2 && ids.lines().all(|id| id.starts_with("sha256:") && id.len() == 71), "{ids}");
}

#[test]
fn filters_choose() {
    let env = TestEnv::with_busybox();
    env.slipway(["tag", "busybox", "me/other:2"]).success();
    let names = |arguments: &[&str]| {
        let json = env.slipway([&["images", "--format", "json"], arguments].concat()).success();
        let name = |line: &str| {
            let row: serde_json::Value = serde_json::from_str(line).expect("JSON");
            format!("{}:{}", row["Repository"].as_str().unwrap(), row["Tag"].as_str().unwrap())
        };
        let mut names: Vec<String> = json.lines().map(name).collect();
        names.sort();
        names
    };
    assert_eq!(names(&["--filter", "reference=me/*"]), ["me/other:2"]);
    assert_eq!(names(&["busy*"]), ["busybox:latest"]);
    assert_eq!(names(&["-f", "dangling=true"]), Vec::<String>::new());
    assert_eq!(names(&["-f", "dangling=false"]).len(), 2);
    assert_eq!(names(&["-f", "label=x"]), Vec::<String>::new());
    let stderr = env.slipway(["images", "-f", "color=red"]).failure(1);
    assert!(stderr.contains("invalid filter `color=red`") && stderr.contains("hint:"), "{stderr}");
}

#[test]
fn a_reader_that_stops_is_no_error() {
    let env = TestEnv::with_busybox();
    let mut command = env.command(["images"]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let ran = super::support::run(command.stdout(writer));
    assert_eq!((ran.code(), ran.stderr()), (0, String::new()));
}
