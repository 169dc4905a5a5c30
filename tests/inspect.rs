//! `slipway inspect`.

use super::support::TestEnv;

#[test]
fn an_image_is_told_in_dockers_shape() {
    let env = TestEnv::with_busybox();
    let json: serde_json::Value = serde_json::from_str(&env.slipway(["inspect", "busybox"]).success()).expect("JSON");
    let image = &json[0];
    assert_eq!(image["RepoTags"], serde_json::json!(["busybox:latest"]));
    assert_eq!(image["Config"]["Cmd"], serde_json::json!(["sh"]));
    assert_eq!((image["Os"].as_str(), image["RootFS"]["Type"].as_str()), (Some("linux"), Some("layers")));
    assert_eq!(image["RootFS"]["Layers"].as_array().map(Vec::len), Some(1));
    let id = image["Id"].as_str().expect("an ID");
    // By its ID, whole or in part.
    for name in [id, &id[7..], &id[7..19]] {
        let again: serde_json::Value = serde_json::from_str(&env.slipway(["inspect", name]).success()).expect("JSON");
        assert_eq!(again[0]["Id"], id);
    }
    let line = env.slipway(["inspect", "-f", "json", "busybox"]).success();
    assert_eq!(line.lines().count(), 1);
}

#[test]
fn what_is_found_is_printed_although_something_is_missing() {
    let env = TestEnv::with_busybox();
    let ran = env.slipway(["inspect", "nosuch", "busybox"]);
    let json: serde_json::Value = serde_json::from_str(&ran.stdout()).expect("JSON");
    assert_eq!(json.as_array().map(Vec::len), Some(1));
    assert_eq!(ran.failure(1), "error: no such image: `nosuch`\nhint: `slipway images` lists what is here\n");
    assert_eq!(env.slipway(["inspect", "nosuch"]).stdout(), "[]\n");
}
