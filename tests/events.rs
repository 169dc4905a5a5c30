//! `slipway events`.

use super::support::TestEnv;

#[test]
fn the_life_of_a_container_is_told() {
    let Some(env) = TestEnv::for_containers() else { return };
    let id = env.start("box", &["-l", "a=b"], "exit 3");
    env.slipway(["wait", "box"]).success();
    env.slipway(["rm", "box"]).success();
    let events =
        |flags: &[&str]| env.slipway([&["events", "--since", "1h", "--until", "0.001s"], flags].concat()).success();
    let actions = events(&["--format", "{{.Action}} {{.Actor.Attributes.name}}"]);
    assert_eq!(actions, "create box\nstart box\ndie box\ndestroy box\n");
    assert_eq!(events(&["-f", "event=die", "--format", "{{.Actor.Attributes.exitCode}}"]), "3\n");
    assert_eq!(events(&["-f", "label=a=b", "-f", "event=start", "--format", "{{.Actor.ID}}"]), format!("{id}\n"));
    assert_eq!(events(&["-f", "container=other"]), "");
    let text = events(&["-f", "event=create"]);
    assert!(text.contains(&format!(" container create {id} (")) && text.contains("image=busybox"), "{text}");
    let json: serde_json::Value = serde_json::from_str(events(&["--format", "json"]).lines().next().unwrap()).unwrap();
    assert_eq!(
        (&json["Type"], &json["status"], &json["id"]),
        (&"container".into(), &"create".into(), &id.as_str().into())
    );
    assert!(env.slipway(["events", "-f", "nosuch=1"]).failure(1).contains("invalid filter 'nosuch'"));
}
