//! `slipway build`: a Dockerfile and a context in, an image out.

mod call;
mod metadata;
mod recorded;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use builder::{AddedHost, BuildRequest, Context, DockerfileSource, NamedContext, Network, PullPolicy, SecretSource};
use engine::context_spec::ContextSpec;
use engine::contexts::{self, Access, OpenContext};
use engine::ops::build::{self, BuildOpError, BuildOptions, BuildResult, CacheLimit};
use engine::output::{Finish, Output};
use engine::remote::Environment;
use engine::ssh::SshSource;
use engine::{Cancel, Engine};

use crate::args::ProgressMode;
use crate::failure::Failure;
use crate::flags::call::{Call, Question};
use crate::flags::{self, outputs, reproducible, reproducible::Reproducible};
use crate::progress::{self, Explained, Shared};
use crate::session::{Session, Threads};
use crate::sink::Sink;
use crate::{clock, terminal, verification};

const EXAMPLES: &str = "\
Examples:
  slipway build -t app .                            The Dockerfile of this folder
  slipway build -t app -f docker/Dockerfile .       Another file; paths in it are relative to `.`
  slipway build --target test --build-arg V=2 .     One stage, with an argument
  slipway build -o type=oci,dest=app.tar .          To an archive instead of the store
  slipway build -o dist .                           The image's files, into a folder
  slipway build --explain -t app .                  What was cached, and why the rest was not
  generate-dockerfile | slipway build -t app -f - .
  git archive HEAD | slipway build -t app -          A tar, plain or compressed
  slipway build https://example.com/app.git#v1:docker A folder of a git repository

Kinds of output (-o, repeatable):
  type=image[,name=NAME][,push=true][,push-by-digest=true][,store=false]
                                        The store, and from there a registry
  type=registry                         Short for type=image,push=true
  type=oci|docker[,dest=FILE][,name=NAME][,tar=false]
                                        An archive; `-` or no dest is standard output, tar=false a folder
  type=tar[,dest=FILE]                  The files of the image, as a tar
  type=local,dest=FOLDER[,platform-split=true]
                                        The files of the image
  type=cacheonly                        Nothing
  FOLDER, -                             Short for type=local, and for type=tar,dest=-
An image, wherever it goes, takes compression=gzip|zstd|uncompressed, compression-level=N,
force-compression=true (the layers of base images too), oci-mediatypes=false, and
annotation[-index|-manifest-descriptor|-index-descriptor][[PLATFORM]].NAME=VALUE.

Kinds of cache (--cache-to, --cache-from, both repeatable):
  type=registry,ref=NAME, or NAME       A tag in a registry; of an image too, for --cache-from
  type=local,dest=FOLDER / src=FOLDER   An OCI layout
  type=inline                           The image itself (--cache-to)
  mode=max                              All steps, not only those of the image (--cache-to)

A value of --build-arg or --secret may come from the environment. SOURCE_DATE_EPOCH in the
environment is a build argument too, and means --reproducible.";

/// Build an image from a Dockerfile
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// What COPY and ADD read: a folder, a git repository (URL#REF:FOLDER), a tar or Dockerfile behind a URL, or `-` for
    /// either on standard input
    #[arg(value_name = "FOLDER|URL|-")]
    context: Option<OsString>,
    /// What to call the image
    #[arg(short, long = "tag", value_name = "NAME[:TAG]")]
    tags: Vec<oci::Reference>,
    /// The Dockerfile; `-` is standard input. Inside the context if that is a tar [default: Dockerfile of the context]
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Stop at this stage
    #[arg(long, value_name = "STAGE")]
    target: Option<String>,
    /// Set an ARG of the Dockerfile; a lone name takes the value from the environment
    #[arg(long = "build-arg", value_name = "NAME[=VALUE]")]
    build_args: Vec<String>,
    /// Add a label to the image
    #[arg(long = "label", value_name = "NAME=VALUE")]
    labels: Vec<String>,
    /// Add a note to the manifest of the image, or elsewhere: index:, manifest-descriptor:, index-descriptor:
    #[arg(long = "annotation", value_name = "[TYPE[[PLATFORM]]:]NAME=VALUE")]
    annotations: Vec<String>,
    /// Say how the image was built, or what is in it, beside the image: where it is pushed to, and in type=oci
    #[arg(long, value_name = "type=provenance|sbom[,mode=min|max]")]
    attest: Vec<String>,
    /// Short for --attest type=provenance: SLSA provenance, version 1
    #[arg(
        long,
        value_name = "mode=min|max",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    provenance: Option<String>,
    /// Short for --attest type=sbom: deb and apk packages and lock files of languages, as SPDX; rpm packages are not read
    #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    sbom: Option<String>,
    /// Build for this platform [default: the machine's]
    #[arg(long, value_name = "OS/ARCH", value_delimiter = ',')]
    platform: Vec<oci::Platform>,
    /// Where the result goes
    #[arg(short, long = "output", value_name = "DEST|type=KIND,…")]
    outputs: Vec<String>,
    /// Do every step again
    #[arg(long)]
    no_cache: bool,
    /// Do every step of these stages again
    #[arg(long, value_name = "STAGE", value_delimiter = ',')]
    no_cache_filter: Vec<String>,
    /// Let the build cache of the store grow to so many bytes; `none` is without end
    /// [default: 80% of the disk or 100 GB, while 20% of the disk are free]
    #[arg(
        long,
        env = "SLIPWAY_CACHE_LIMIT",
        value_name = "BYTES|none",
        hide_env_values = true,
        value_parser = cache_limit
    )]
    cache_limit: Option<CacheLimit>,
    /// Say for each step whether it was in the cache, and if not, what changed
    #[arg(
        long,
        value_name = "text|json[,dest=FILE]",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "text",
        value_parser = flags::explain::parse
    )]
    explain: Option<flags::explain::Explain>,
    /// Answer a question about the Dockerfile instead of building: what the lint rules say of it, what the target can be
    /// given, or which targets there are
    #[arg(
        long,
        value_name = "check|outline|targets[,format=text|json|sarif]",
        default_value = "build",
        hide_default_value = true,
        value_parser = flags::call::parse
    )]
    call: flags::call::Call,
    /// Short for --call=check
    #[arg(long, conflicts_with = "call")]
    check: bool,
    /// Find steps in a cache that --cache-to wrote, or in an image with an inline cache
    #[arg(long, value_name = "NAME|type=KIND,…")]
    cache_from: Vec<String>,
    /// Write what the steps made to a cache for other machines
    #[arg(long, value_name = "type=KIND,…")]
    cache_to: Vec<String>,
    /// Ask the registry for newer base images
    #[arg(long)]
    pull: bool,
    /// Send the image to its registry when it is built
    #[arg(long)]
    push: bool,
    /// Put the image into the store; what happens without --output anyhow
    #[arg(long)]
    load: bool,
    /// Print only the ID of the image
    #[arg(short, long)]
    quiet: bool,
    /// Write the ID of the image to a file
    #[arg(long, value_name = "FILE")]
    iidfile: Option<PathBuf>,
    /// Write what is known about the result to a file, as JSON
    #[arg(long, value_name = "FILE")]
    metadata_file: Option<PathBuf>,
    /// Network of RUN steps: default, none or host
    #[arg(long, value_name = "MODE", default_value = "default")]
    network: String,
    /// Add a line to /etc/hosts of RUN steps
    #[arg(long = "add-host", value_name = "HOST:IP|HOST:host-gateway")]
    add_hosts: Vec<String>,
    /// Size of /dev/shm in RUN steps
    #[arg(long, value_name = "BYTES", value_parser = super::bytes)]
    shm_size: Option<u64>,
    /// Limit of RUN steps
    #[arg(long = "ulimit", value_name = "NAME=SOFT[:HARD]")]
    ulimits: Vec<String>,
    /// Parent of the control groups of RUN steps
    #[arg(long, value_name = "PATH")]
    cgroup_parent: Option<String>,
    /// Offer a secret to RUN --mount=type=secret
    #[arg(long = "secret", value_name = "id=ID[,src=FILE|,env=NAME]")]
    secrets: Vec<String>,
    /// Offer an SSH agent, or keys, to RUN --mount=type=ssh and ADD of git@… [the agent of SSH_AUTH_SOCK if none is named]
    #[arg(long = "ssh", value_name = "default|ID[=SOCKET|KEY,…]")]
    ssh: Vec<String>,
    /// Offer one more named context to FROM and COPY --from: any kind of files, or an image
    #[arg(long = "build-context", value_name = "NAME=FOLDER|URL|GIT|docker-image://NAME|oci-layout://FOLDER[:TAG]")]
    build_contexts: Vec<String>,
    /// Let RUN ask for more than the sandbox: network.host, security.insecure
    #[arg(long, value_name = "RIGHT", value_delimiter = ',')]
    allow: Vec<String>,
    /// When a step fails, open a shell in it; the build fails when the shell ends
    #[arg(long)]
    shell_on_error: bool,
    #[command(flatten)]
    reproducible: Reproducible,
    #[command(flatten)]
    registry: super::RegistryArgs,
}

pub(crate) fn run(args: Args, session: &Session) -> anyhow::Result<ExitCode> {
    let cache = flags::cache::parse(&args.cache_from, &args.cache_to, args.load)?;
    let given = outputs::Given {
        outputs: &args.outputs,
        annotations: &args.annotations,
        push: args.push,
        load: args.load,
        is_tagged: !args.tags.is_empty(),
    };
    let outputs = outputs::parse(given, session.cancel())?;
    let attestations = flags::attest::parse(&args.attest, args.provenance.as_deref(), args.sbom.as_deref())?;
    let spec = context_spec(&args)?;
    let mut request = request(&args)?;
    let named: Vec<_> = args.tags.iter().chain(outputs::names(&outputs)).chain(cache.references()).cloned().collect();
    let insecure = args.registry.registries(&named);
    let engine = session.engine_for(&insecure)?;
    // What was unpacked for the build goes away with this.
    let ssh = args.ssh.iter().map(|text| ssh_source(text).context("--ssh")).collect::<Result<Vec<_>, _>>()?;
    let environment = Environment::of(std::env::vars_os());
    let keep_git_dir = request.build_args.get("BUILDKIT_CONTEXT_KEEP_GIT_DIR");
    let access = Access {
        environment: environment.clone(),
        secrets: request.secrets.clone(),
        ssh: ssh.clone(),
        keep_git_dir: keep_git_dir
            .is_some_and(|value| matches!(value.as_str(), "1" | "t" | "T" | "true" | "TRUE" | "True")),
        now: request.now,
    };
    let open = context(&spec, &args, &engine, &access, session)?;
    (request.context, request.dockerfile) = (open.context.clone(), open.dockerfile.clone());
    let question = if args.check { Call::CHECK } else { args.call };
    if question.question != Question::Build {
        return call::answer(question, request, &engine, session);
    }
    args.reproducible.find_epoch(&mut request, args.quiet)?;
    if let Some(format) = &args.reproducible.verify {
        return verify(&args, format, request, outputs, ssh, &engine, session);
    }
    let mode = if args.quiet { ProgressMode::Quiet } else { session.progress() };
    let view = progress::of_build(mode);
    request.explain = args.explain.is_some();
    let explained = args.explain.as_ref().map(|form| (form, Arc::new(Explained::new(view.clone()))));
    let view = explained.as_ref().map_or(view, |(_, explained)| explained.clone());
    let cache_limit = args.cache_limit.unwrap_or_default();
    let typed = args.context.as_deref().unwrap_or_default().to_string_lossy();
    let recording = recorded::recording(&typed, args.shell_on_error.then(|| view.clone()))?;
    let record = recording.as_ref().map(|recording| recording.id.clone());
    let options = BuildOptions {
        request,
        tags: args.tags.clone(),
        outputs,
        ssh,
        environment,
        cache,
        cache_limit,
        attestations,
        clock: clock::now,
        recording,
    };
    let built =
        session.wait(Threads::Many, build::build(&engine, options, Arc::new(Shared(view.clone())), session.cancel()));
    view.finish();
    if !args.quiet {
        crate::rootless::warn();
    }
    if let Some((form, explained)) = &explained {
        tell_cache(form, explained, session.cancel())?;
    }
    let result = built.map_err(|error| recorded::point(explain(error), &engine, record.as_ref()))?;
    report(&args, &result, record.as_ref().map(engine::builds::BuildId::as_str), session.cancel())?;
    Ok(ExitCode::SUCCESS)
}

/// Builds twice, and prints what differs.
fn verify(
    args: &Args,
    format: &str,
    request: BuildRequest,
    outputs: Vec<Output>,
    ssh: Vec<SshSource>,
    engine: &Engine,
    session: &Session,
) -> anyhow::Result<ExitCode> {
    if let Some(tag) = args.tags.iter().find(|tag| tag.digest().is_some()) {
        return Err(BuildOpError::Digest { tag: tag.clone() }.into());
    }
    let environment = Environment::of(std::env::vars_os());
    let mode = if args.quiet { ProgressMode::Quiet } else { session.progress() };
    let (now, dockerfile) = (request.now, request.dockerfile.name.clone());
    let mut view = progress::of_build(mode);
    let mut builds = 0;
    let mut next_view = || -> Arc<dyn build::BuildView> {
        builds += 1;
        if builds > 1 {
            view.finish();
            view = progress::of_build(mode);
        }
        Arc::new(Shared(view.clone()))
    };
    let cancel = session.cancel();
    let verified = session.wait(
        Threads::Many,
        engine::verify::verify(engine, request, ssh, environment, &mut next_view, &clock::now, cancel),
    );
    view.finish();
    let verified = verified.map_err(explain)?;
    let verification = &verified.verification;
    match format {
        "json" => terminal::print_json(&serde_json::to_string_pretty(verification)?)?,
        _ => terminal::print_bytes(verification::describe(verification, &dockerfile).as_bytes())?,
    }
    if !verification.reproducible {
        return Err(Failure::new(anyhow::anyhow!(verification::summary(verification))).into());
    }
    if !args.tags.is_empty() || !outputs.is_empty() {
        let view = Shared(progress::of_build(ProgressMode::Quiet));
        let handed = build::hand_out(engine, verified.built, args.tags.clone(), outputs, &view, now);
        report(args, &session.wait(Threads::Many, handed)?, None, cancel)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn cache_limit(text: &str) -> Result<CacheLimit, String> {
    if text == "none" { Ok(CacheLimit::None) } else { super::bytes(text).map(CacheLimit::Bytes) }
}

/// Draws errors that have a place in the Dockerfile.
fn explain(error: anyhow::Error) -> anyhow::Error {
    match error.downcast_ref::<BuildOpError>() {
        Some(BuildOpError::Build(build)) if build.diagnostic().is_some() => {
            let text = build.render(terminal::has_color());
            Failure::new(error).rendered(text).into()
        }
        _ => error,
    }
}

/// Prints what the cache had, also of a build that failed.
fn tell_cache(form: &flags::explain::Explain, explained: &Explained, cancel: &Cancel) -> anyhow::Result<()> {
    let text = if form.json { serde_json::to_string_pretty(&explained.json())? } else { explained.text() };
    match &form.dest {
        Some(path) => write(path, format!("{text}\n").as_bytes(), cancel)?,
        None if form.json => terminal::print_json(&text)?,
        None => terminal::note(&text),
    }
    Ok(())
}

fn report(args: &Args, result: &BuildResult, build: Option<&str>, cancel: &Cancel) -> anyhow::Result<()> {
    let id = result.id.to_string();
    if let Some(path) = &args.iidfile {
        write(path, id.as_bytes(), cancel)?;
    }
    if let Some(path) = &args.metadata_file {
        let metadata = metadata::of(result, build)?;
        write(path, serde_json::to_string_pretty(&metadata)?.as_bytes(), cancel)?;
    }
    if !result.kept {
        for name in result.sent.iter().filter(|name| name.digest().is_some()) {
            terminal::print_line(&name.to_string())?;
        }
        for name in &result.names {
            terminal::note(&format!("{} is at its registry only: layers of it were not needed here", name.familiar()));
        }
        return Ok(());
    }
    if args.quiet || result.names.is_empty() {
        terminal::print_line(&id)?;
    } else {
        for name in &result.names {
            terminal::note(&format!("naming {id} {}", name.familiar()));
        }
    }
    Ok(())
}

fn write(path: &Path, bytes: &[u8], cancel: &Cancel) -> anyhow::Result<()> {
    let mut sink = Sink::to_file(path, cancel).open()?;
    sink.write_all(bytes)
        .and_then(|()| Box::new(sink).finish())
        .with_context(|| format!("cannot write `{}`", path.display()))
}

/// Returns what is asked for, but for the context and the Dockerfile.
fn request(args: &Args) -> anyhow::Result<BuildRequest> {
    let none = DockerfileSource { name: String::new(), bytes: Vec::new(), ignore: None };
    let mut request = BuildRequest::new(Context::None, none, clock::now());
    request.target.clone_from(&args.target);
    args.reproducible.apply(&mut request)?;
    for argument in &args.build_args {
        request.build_args.extend(flags::variable(argument).context("--build-arg")?);
    }
    request.source_date_epoch = reproducible::epoch(&request.build_args)?;
    for label in &args.labels {
        let (name, value) = label.split_once('=').unwrap_or((label, ""));
        anyhow::ensure!(!name.is_empty(), "--label `{label}` has no name before the `=`");
        request.labels.insert(name.into(), value.into());
    }
    request.platforms.clone_from(&args.platform);
    request.no_cache = args.no_cache;
    request.no_cache_filter.clone_from(&args.no_cache_filter);
    request.pull = if args.pull { PullPolicy::Always } else { PullPolicy::Missing };
    request.network = match args.network.as_str() {
        "default" | "bridge" => Network::Default,
        "none" => Network::None,
        "host" => Network::Host,
        other => anyhow::bail!("--network `{other}` is none of default, none and host"),
    };
    // Whoever may choose the host's network for all steps may also let a step choose it.
    request.allow.network_host = request.network == Network::Host;
    for right in &args.allow {
        match right.as_str() {
            "network.host" => request.allow.network_host = true,
            "security.insecure" => request.allow.security_insecure = true,
            other => anyhow::bail!("--allow `{other}` is neither network.host nor security.insecure"),
        }
    }
    for host in &args.add_hosts {
        let (name, address) = flags::host_of_build(host).context("--add-host")?;
        request.add_hosts.push(AddedHost { name, address });
    }
    request.shm_size = args.shm_size;
    request.ulimits =
        args.ulimits.iter().map(|text| flags::ulimit(text).context("--ulimit")).collect::<Result<_, _>>()?;
    request.cgroup_parent.clone_from(&args.cgroup_parent);
    for secret in &args.secrets {
        let (id, source) = secret_source(secret).context("--secret")?;
        request.secrets.insert(id, source);
    }
    for named in &args.build_contexts {
        let (name, context) = named_context(named).context("--build-context")?;
        request.named_contexts.insert(name, context);
    }
    Ok(request)
}

fn context_spec(args: &Args) -> anyhow::Result<ContextSpec> {
    let Some(text) = &args.context else {
        let error = anyhow::anyhow!("`slipway build` requires 1 argument");
        let hint = "name the folder with the files to build from, mostly `.`; see `slipway build --help`";
        return Err(Failure::new(error).code(1).hint(hint).into());
    };
    Ok(ContextSpec::positional(text)?)
}

/// Opens the context and the Dockerfile.
fn context(
    spec: &ContextSpec,
    args: &Args,
    engine: &Engine,
    access: &Access,
    session: &Session,
) -> anyhow::Result<OpenContext> {
    let file = args.file.as_deref();
    match spec {
        // Most builds have nothing to wait for.
        ContextSpec::Folder(folder) => Ok(contexts::open_folder(folder, file, io::stdin())?),
        spec => session.wait(Threads::Many, contexts::open(engine, spec, file, io::stdin(), access, session.cancel())),
    }
}

/// Reads `ID[=SOCKET|KEY,…]`.
fn ssh_source(text: &str) -> anyhow::Result<SshSource> {
    let (id, paths) = text.split_once('=').unwrap_or((text, ""));
    anyhow::ensure!(!id.is_empty(), "`{text}` has no ID before the `=`");
    let paths = paths.split(',').filter(|path| !path.is_empty()).map(PathBuf::from).collect();
    Ok(SshSource { id: id.to_owned(), paths })
}

/// Reads `id=ID[,src=FILE|,env=NAME]`. Without a source it is the variable called ID, or else the file.
pub(super) fn secret_source(text: &str) -> anyhow::Result<(String, SecretSource)> {
    let (mut id, mut file, mut env) = (None, None, None);
    for (key, value) in flags::fields(text)? {
        match (key.as_str(), value) {
            ("id", Some(value)) => id = Some(value),
            ("src" | "source", Some(value)) => file = Some(value),
            ("env", Some(value)) => env = Some(value),
            ("type", Some(kind)) if kind == "file" || kind == "env" => {}
            _ => anyhow::bail!("`{text}` is not of the form id=ID[,src=FILE|,env=NAME]"),
        }
    }
    let id = id.filter(|id| !id.is_empty()).with_context(|| format!("`{text}` has no id"))?;
    let value = |name: &str| std::env::var_os(name).map(|value| SecretSource::Value(value.into_encoded_bytes()));
    let source = match (file, env) {
        (Some(file), _) => SecretSource::File(file.into()),
        (None, Some(name)) => value(&name).with_context(|| format!("`{text}`: ${name} is not set"))?,
        (None, None) => value(&id).unwrap_or_else(|| SecretSource::File(id.clone().into())),
    };
    if let SecretSource::File(path) = &source {
        std::fs::metadata(path).with_context(|| format!("`{text}`: cannot read `{}`", path.display()))?;
    }
    Ok((id, source))
}

fn named_context(text: &str) -> anyhow::Result<(String, NamedContext)> {
    let (name, spec) = ContextSpec::named(text)?;
    let context = match spec {
        ContextSpec::Folder(folder) => NamedContext::Files(Context::Folder(folder)),
        ContextSpec::Image(image) => NamedContext::Image(image),
        ContextSpec::OciLayout(layout) => NamedContext::Layout(layout),
        ContextSpec::Scratch => NamedContext::Files(Context::None),
        ContextSpec::Git(address) => NamedContext::Git(contexts::git_source(&address)?),
        ContextSpec::Http(url) => NamedContext::Http(url),
        ContextSpec::Stdin => anyhow::bail!("`{text}`: standard input can only be the main context"),
    };
    Ok((name, context))
}
