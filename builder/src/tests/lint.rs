//! Lint rules that need more than the text, and the questions that are answered without a build.

use oci::Platform;

use super::World;
use crate::{Checked, check, outline, targets};

fn findings(checked: &Checked) -> Vec<String> {
    let line = |warning: &crate::dockerfile::Warning| {
        format!("{} {}: {}", warning.span.first_line, warning.rule.name(), warning.message)
    };
    checked.warnings.iter().map(line).collect()
}

fn checked(world: &World, dockerfile: &str) -> Vec<String> {
    let checked = check(&world.request(dockerfile), &world.images);
    assert!(checked.error.is_none(), "{:?}", checked.error);
    findings(&checked)
}

#[test]
fn rules_that_need_variables_find_what_buildkit_finds() {
    let world = World::new();
    for (dockerfile, expected) in [
        (
            "FROM $tag",
            vec![
                "1 UndefinedArgInFrom: FROM argument 'tag' is not declared",
                "1 InvalidDefaultArgInFrom: Default value for ARG $tag results in empty or invalid base image name",
            ],
        ),
        ("ARG tag=base\nFROM ${tag}\n", vec![]),
        ("ARG tag\nARG other=base\nFROM ${tag:-base}\nFROM $other", vec![]),
        ("FROM base${VERSOIN}\n", vec!["1 UndefinedArgInFrom: FROM argument 'VERSOIN' is not declared"]),
        (
            "ARG VERSION=\nFROM base${VERSOIN}\n",
            vec!["2 UndefinedArgInFrom: FROM argument 'VERSOIN' is not declared (did you mean VERSION?)"],
        ),
        (
            "FROM --platform=$TARGETPLATFORM base",
            vec![
                "1 RedundantTargetPlatform: Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
            ],
        ),
        ("FROM --platform=$BUILDPLATFORM base", vec![]),
        (
            "FROM --platform=linux/amd64 base AS x",
            vec![
                "1 FromPlatformFlagConstDisallowed: FROM --platform flag should not use constant value \"linux/amd64\"",
            ],
        ),
        ("FROM --platform=linux/amd64 base AS build_amd64", vec![]),
        (
            "FROM base\nARG foo=1\nLABEL a=$foo b=$bar c=${baz:-x} d=$BASE e=$BASF\n",
            vec![
                "3 UndefinedVar: Usage of undefined variable '$bar'",
                "3 UndefinedVar: Usage of undefined variable '$baz'",
                "3 UndefinedVar: Usage of undefined variable '$BASF' (did you mean $BASE?)",
            ],
        ),
        ("FROM base\nARG foo\nLABEL a=$foo\n", vec![]),
        (
            "FROM base AS a\nENV one=1\nFROM a\nCOPY --chown=$tow <<x $one/\ny\nx\n",
            vec!["4 UndefinedVar: Usage of undefined variable '$tow'"],
        ),
        (
            "FROM base\nWORKDIR app\nWORKDIR more\n",
            vec![
                "2 WorkdirRelativePath: Relative workdir \"app\" can have unexpected results if the base image changes",
            ],
        ),
        ("FROM base AS a\nWORKDIR /app\nFROM a\nWORKDIR more\n", vec![]),
        (
            "FROM base\nARG API_KEY\nENV PASSWORD=x PUBLIC_KEY=y\n",
            vec![
                "2 SecretsUsedInArgOrEnv: Do not use ARG or ENV instructions for sensitive data (ARG \"API_KEY\")",
                "3 SecretsUsedInArgOrEnv: Do not use ARG or ENV instructions for sensitive data (ENV \"PASSWORD\")",
            ],
        ),
        (
            "FROM base\nEXPOSE 80/TCP 127.0.0.1:1:2\n",
            vec![
                "2 ExposeInvalidFormat: EXPOSE instruction should not define an IP address or host-port mapping, found '127.0.0.1:1:2'",
                "2 ExposeProtoCasing: Defined protocol '80/TCP' in EXPOSE instruction should be lowercase",
            ],
        ),
    ] {
        // A base that is not there is no finding of these rules.
        let found = findings(&check(&world.request(dockerfile), &world.images));
        assert_eq!(found, expected, "{dockerfile}");
    }
}

#[test]
fn c26_a_source_that_is_ignored_is_found() {
    let world = World::new();
    world.lay(".dockerignore", "secret.*\nnode_modules\n").lay("a", "1");
    let found = checked(
        &world,
        "FROM base AS a\nCOPY a secret.txt /x/\nADD node_modules/y /x/\nCOPY . /y/\nFROM base\nCOPY --from=a secret.txt /",
    );
    assert_eq!(
        found,
        [
            "2 CopyIgnoredFile: Attempting to Copy file \"secret.txt\" that is excluded by .dockerignore",
            "3 CopyIgnoredFile: Attempting to Add file \"node_modules/y\" that is excluded by .dockerignore",
        ]
    );
    world.lay(".dockerignore", "*\n!a\n");
    assert_eq!(checked(&world, "FROM base\nCOPY b /x/\n"), [""; 0], "an exception may put anything back");
    world.lay(".dockerignore", "*\n");
    assert_eq!(checked(&world, "FROM base\nCOPY . /x/\n").len(), 1);
}

#[test]
fn g8_a_base_image_of_another_platform_is_found() {
    let world = World::new();
    let mut request = world.request("FROM base");
    request.platforms = vec![Platform::linux("arm64")];
    let found = findings(&check(&request, &world.images));
    assert_eq!(
        found,
        [
            "1 InvalidBaseImagePlatform: Base image base was pulled with platform \"linux/amd64\", expected \"linux/arm64\" for current build"
        ]
    );
}

#[test]
fn all_stages_are_checked_unless_one_is_named() {
    let world = World::new();
    let dockerfile = "FROM base AS a\nLABEL x=$one\nFROM base AS b\nLABEL x=$two\n";
    assert_eq!(checked(&world, dockerfile).len(), 2);
    let mut request = world.request(dockerfile);
    request.target = Some("b".into());
    let found = findings(&check(&request, &world.images));
    assert_eq!(found, ["4 UndefinedVar: Usage of undefined variable '$two'"]);
}

#[test]
fn a_base_that_cannot_be_had_hides_nothing_else() {
    let world = World::new();
    let checked =
        check(&world.request("FROM nowhere AS a\nLABEL x=$PATHS\nWORKDIR x\nFROM a\nUSER $y\n"), &world.images);
    assert!(checked.error.is_none(), "{:?}", checked.error);
    assert_eq!(checked.unknown, ["a", "stage-1"]);
    assert_eq!(findings(&checked).len(), 1, "{:?}", findings(&checked));
}

#[test]
fn what_a_build_would_refuse_is_told_with_what_was_found_before() {
    let world = World::new();
    let checked = check(&world.request("FROM base\nLABEL a=$b\nRUN --mount=type=bidn x\nLABEL c=$d\n"), &world.images);
    assert_eq!(findings(&checked).len(), 1);
    let error = checked.error.expect("refused");
    assert_eq!(error.lines, Some(3..=3));
    let checked = check(&world.request("FORM base\n"), &world.images);
    assert_eq!(checked.error.expect("refused").hint.as_deref(), Some("did you mean `FROM`?"));
}

#[test]
fn p4_findings_stop_a_build_that_wants_it_so() {
    let world = World::new();
    let error = world.refuse("# check=error=true\nFROM base\nLABEL a=$b\nMAINTAINER x\n");
    insta::assert_snapshot!(error, @r"
    error: lint violation found for rules: MaintainerDeprecated, UndefinedVar
     |
     = hint: the Dockerfile asks for this with `# check=error=true`; `--check` tells where each is
    ");
    let (built, seen) = world.try_build(&world.request("FROM base\nLABEL a=$b\n"));
    built.expect("built");
    assert_eq!(seen.warnings(), ["UndefinedVar: Usage of undefined variable '$b'"]);
    let skipped = world.request("# check=skip=UndefinedVar\nFROM base\nLABEL a=$b\n");
    assert_eq!(world.try_build(&skipped).1.warnings(), [""; 0]);
}

#[test]
fn the_outline_has_what_the_target_and_its_stages_ask_for() {
    let world = World::new();
    let dockerfile = "\
# image what to start from
ARG image=base
ARG unused=1
ARG suffix
FROM ${image} AS deps
# version of the thing
# depth how deep
ARG depth=${BASE}0
RUN --mount=type=secret,id=token,required print x
RUN --mount=type=secret,target=/run/other.txt --mount=type=ssh print y
FROM base AS other
ARG elsewhere=1
# app the program
FROM deps AS app
ARG suffix
ARG given=no
";
    let mut request = world.request(dockerfile);
    request.build_args.insert("given".into(), "yes".into());
    let outline = outline(&request, &world.images).expect("an outline");
    assert_eq!((outline.name.as_deref(), outline.description.as_deref()), (Some("app"), Some("the program")));
    let arguments: Vec<String> = outline
        .arguments
        .iter()
        .map(|argument| {
            let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
            let line = argument.span.first_line;
            format!("{line} {}={} {}", argument.name, text(&argument.value), text(&argument.description))
        })
        .collect();
    assert_eq!(
        arguments,
        ["2 image=base what to start from", "8 depth=10 how deep", "15 suffix=- -", "16 given=yes -"]
    );
    let uses = |uses: &[crate::SecretUse]| {
        uses.iter().map(|secret| format!("{} {}", secret.id, secret.required)).collect::<Vec<_>>()
    };
    assert_eq!(uses(&outline.secrets), ["token true", "other.txt false"]);
    assert_eq!(uses(&outline.ssh), ["default false"]);
}

#[test]
fn targets_are_the_stages() {
    let world = World::new();
    let found = targets(&world.request("FROM base AS a\n# b does it\nFROM --platform=$BUILDPLATFORM a AS b\n"));
    let found: Vec<_> = found
        .expect("stages")
        .into_iter()
        .map(|target| (target.name, target.is_default, target.description, target.base, target.platform))
        .collect();
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(
        found,
        [
            (text("a"), false, None, "base".to_owned(), None),
            (text("b"), true, text("does it"), "a".to_owned(), text("$BUILDPLATFORM")),
        ]
    );
}
