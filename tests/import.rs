//! `slipway import`.

use super::support::{TestEnv, busybox_tar, path, run};

#[test]
fn a_tar_becomes_an_image_with_one_layer_of_its_bytes() {
    let env = TestEnv::new();
    let tar = path(busybox_tar());
    let id = env.slipway(["import", "-m", "from a tar", tar, "base:1"]).success();
    assert!(id.starts_with("sha256:") && id.trim().len() == 71, "{id}");
    let json: serde_json::Value = serde_json::from_str(&env.slipway(["inspect", "base:1"]).success()).unwrap();
    assert_eq!(json[0]["Id"], id.trim());
    assert_eq!(json[0]["Comment"], "from a tar");
    let digest = run(std::process::Command::new("sha256sum").arg(tar)).success();
    let digest = format!("sha256:{}", digest.split_whitespace().next().unwrap());
    assert_eq!(json[0]["RootFS"]["Layers"], serde_json::json!([digest]));
}

#[test]
fn the_same_tar_is_the_same_image_wherever_and_whenever_it_is_imported() {
    let (env, other) = (TestEnv::new(), TestEnv::new());
    let id = env.slipway(["import", path(busybox_tar()), "base"]).success();
    let copy = other.path("busybox.tar");
    std::fs::copy(busybox_tar(), &copy).unwrap();
    assert_eq!(other.slipway(["import", path(&copy)]).success(), id);
    let json: serde_json::Value = serde_json::from_str(&env.slipway(["inspect", "base"]).success()).unwrap();
    assert_eq!(json[0]["Created"], "2023-11-14T22:13:20Z", "the newest file of that tar");
}

#[test]
fn standard_input_and_no_name_will_do() {
    let env = TestEnv::new();
    let stdin = std::fs::File::open(busybox_tar()).unwrap();
    let id = run(env.command(["import", "-"]).stdin(stdin)).success();
    let list = env.slipway(["images", "--no-trunc"]).success();
    assert!(list.contains("<none>") && list.contains(id.trim()), "{list}");
}

#[test]
fn changes_are_dockerfile_instructions() {
    let env = TestEnv::new();
    let changes = ["CMD [\"sh\"]", "ENV A=1 B=2", "EXPOSE 80", "WORKDIR /srv", "USER www-data", "LABEL x=y"];
    let mut arguments = vec!["import"];
    arguments.extend(changes.iter().flat_map(|change| ["--change", change]));
    arguments.extend([path(busybox_tar()), "base"]);
    env.slipway(arguments).success();
    let json: serde_json::Value = serde_json::from_str(&env.slipway(["inspect", "base"]).success()).unwrap();
    let config = &json[0]["Config"];
    assert_eq!((config["Cmd"][0].as_str(), config["WorkingDir"].as_str()), (Some("sh"), Some("/srv")));
    assert_eq!(config["User"], "www-data");
    assert!(config["Env"].as_array().unwrap().contains(&"B=2".into()), "{config}");
    assert_eq!(json[0]["RootFS"]["Layers"].as_array().map(Vec::len), Some(1), "a change adds no layer");
    for (change, expected) in [("RUN true", "RUN cannot change an image"), ("CMDD x", "CMDD")] {
        let stderr = env.slipway(["import", "--change", change, path(busybox_tar()), "x"]).failure(1);
        assert!(stderr.contains(expected), "{stderr}");
    }
}

#[test]
fn what_is_no_tar_becomes_no_image() {
    let env = TestEnv::new();
    let text = env.write("text", "hello");
    let stderr = env.slipway(["import", path(&text), "x"]).failure(1);
    assert!(stderr.starts_with("error: cannot import") && stderr.contains("text"), "{stderr}");
    assert_eq!(env.slipway(["images", "-q"]).success(), "");
}
