//! `slipway network`: networks of containers.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::ExitCode;

use anyhow::Context;
use clap::Subcommand;
use engine::networks::{Endpoint, NetworkRecord, NetworkWishes, Subnet, parse_net};
use engine::ops::network::{self, InspectedNetwork, PruneFilter};
use serde_json::{Map, Value, json};

use crate::flags::pairs;
use crate::session::{Session, Threads};
use crate::template::{self, Format};
use crate::{clock, objects, terminal};

const EXAMPLES: &str = "\
Examples:
  slipway network create front
  slipway run -d --network front --name db postgres
  slipway run --rm --network front app              It reaches the other one as `db`
  slipway network create --internal --subnet 10.9.0.0/24 back
  slipway network connect --alias cache back db
  slipway network rm front";

/// Manage networks of containers
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: NetworkCommand,
}

#[derive(Debug, Subcommand)]
enum NetworkCommand {
    /// Make a network
    Create(Box<CreateArgs>),
    /// List networks
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Show all that is known about networks, as JSON
    Inspect(InspectArgs),
    /// Give a container a place on a further network
    Connect(ConnectArgs),
    /// Take a container's place on a network away
    Disconnect(DisconnectArgs),
    /// Remove networks
    #[command(visible_alias = "remove")]
    Rm(RmArgs),
    /// Remove all networks that no container uses
    Prune(PruneArgs),
}

#[derive(Debug, clap::Args)]
struct CreateArgs {
    /// What it shall be called
    #[arg(value_name = "NETWORK")]
    name: String,
    /// bridge, the only one there is
    #[arg(short, long, value_name = "DRIVER", default_value = "bridge", value_parser = ["bridge"])]
    driver: String,
    /// A range of addresses, such as 172.28.0.0/16; one that is free by default
    #[arg(long, value_name = "NET")]
    subnet: Vec<String>,
    /// The bridge's address; the first of the range by default
    #[arg(long, value_name = "IP")]
    gateway: Vec<String>,
    /// The part of the range that containers get addresses of
    #[arg(long, value_name = "NET")]
    ip_range: Vec<String>,
    /// Nothing comes in, and nothing goes out
    #[arg(long)]
    internal: bool,
    /// With IPv6
    #[arg(long)]
    ipv6: bool,
    /// Containers may be connected while they run; they always may
    #[arg(long)]
    attachable: bool,
    /// Note something about it
    #[arg(long, value_name = "NAME[=VALUE]")]
    label: Vec<String>,
    /// An option of the driver, such as com.docker.network.driver.mtu=9000
    #[arg(short, long, value_name = "NAME=VALUE")]
    opt: Vec<String>,
}

#[derive(Debug, clap::Args)]
struct LsArgs {
    /// Only what matches: dangling, driver, id, label, name, scope, type
    #[arg(short, long, value_name = "NAME=VALUE")]
    filter: Vec<String>,
    /// Print a table, JSON, or what a Go template makes of each
    #[arg(long, value_name = "FORMAT", value_parser = template::format)]
    format: Option<Format>,
    /// Do not shorten IDs
    #[arg(long)]
    no_trunc: bool,
    /// Print only IDs
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, clap::Args)]
struct InspectArgs {
    /// Print an indented array, one JSON object per line, or what a Go template makes of each
    #[arg(short, long, value_name = "FORMAT", value_parser = template::format)]
    format: Option<Format>,
    /// Names or IDs of networks
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<String>,
}

#[derive(Debug, clap::Args)]
struct ConnectArgs {
    /// Name or ID of the network
    network: String,
    /// Name or ID of the container
    container: String,
    /// A further name of the container there
    #[arg(long, value_name = "NAME")]
    alias: Vec<String>,
    /// The address that it shall have
    #[arg(long, value_name = "IP")]
    ip: Option<Ipv4Addr>,
    /// The IPv6 address that it shall have
    #[arg(long, value_name = "IP")]
    ip6: Option<Ipv6Addr>,
}

#[derive(Debug, clap::Args)]
struct DisconnectArgs {
    /// Name or ID of the network
    network: String,
    /// Name or ID of the container
    container: String,
    /// The same as without, for docker's sake
    #[arg(short, long)]
    force: bool,
}

#[derive(Debug, clap::Args)]
struct RmArgs {
    /// Names or IDs of networks
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<String>,
    /// Do not mind those that are not there
    #[arg(short, long)]
    force: bool,
}

#[derive(Debug, clap::Args)]
struct PruneArgs {
    /// Only what matches: until=WHEN, label=NAME[=VALUE], label!=NAME[=VALUE]
    #[arg(long, value_name = "NAME=VALUE")]
    filter: Vec<String>,
    /// Do not ask; nobody ever is
    #[arg(short, long)]
    force: bool,
}

pub(crate) fn run(args: Args, session: &Session) -> anyhow::Result<ExitCode> {
    match args.command {
        NetworkCommand::Create(args) => create(*args, session),
        NetworkCommand::Ls(args) => ls(&args, session),
        NetworkCommand::Inspect(args) => inspect(args, session),
        NetworkCommand::Connect(args) => connect(args, session),
        NetworkCommand::Disconnect(args) => {
            let engine = session.engine()?;
            session.wait(Threads::One, network::disconnect(&engine, args.network, args.container))?;
            Ok(ExitCode::SUCCESS)
        }
        NetworkCommand::Rm(args) => rm(args, session),
        NetworkCommand::Prune(args) => prune(&args, session),
    }
}

fn create(args: CreateArgs, session: &Session) -> anyhow::Result<ExitCode> {
    let nets = |texts: &[String]| texts.iter().map(|text| parse_net(text)).collect::<Result<Vec<_>, _>>();
    let address = |text: &String| text.parse().with_context(|| format!("--gateway `{text}` is no address"));
    let wishes = NetworkWishes {
        name: args.name,
        subnets: nets(&args.subnet).context("--subnet")?,
        gateways: args.gateway.iter().map(address).collect::<Result<_, _>>()?,
        pools: nets(&args.ip_range).context("--ip-range")?,
        ipv6: args.ipv6,
        internal: args.internal,
        labels: pairs(&args.label),
        options: pairs(&args.opt),
    };
    let engine = session.engine()?;
    let record = session.wait(Threads::One, network::create(&engine, wishes, clock::now()))?;
    terminal::print_line(&record.id)?;
    Ok(ExitCode::SUCCESS)
}

fn ls(args: &LsArgs, session: &Session) -> anyhow::Result<ExitCode> {
    let filters = args.filter.iter().map(|text| objects::filter(text)).collect::<Result<_, _>>()?;
    let engine = session.engine()?;
    let list = session.wait(Threads::One, network::list(&engine, filters))?;
    let id =
        |record: &NetworkRecord| record.id.get(..if args.no_trunc { 64 } else { 12 }).unwrap_or_default().to_owned();
    if args.quiet {
        for record in &list {
            terminal::print_line(&id(record))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let rows: Vec<_> = list.iter().map(|record| row(record, id(record))).collect();
    let columns = [("NETWORK ID", "ID"), ("NAME", "Name"), ("DRIVER", "Driver"), ("SCOPE", "Scope")];
    template::print_list(args.format.as_ref(), &columns, &[], &rows)?;
    Ok(ExitCode::SUCCESS)
}

/// A line, with docker's member names.
fn row(record: &NetworkRecord, id: String) -> Map<String, Value> {
    let labels: Vec<String> = record.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let row = json!({
        "CreatedAt": record.created.map(|time| time.strftime("%Y-%m-%d %H:%M:%S +0000 UTC").to_string()).unwrap_or_default(),
        "Driver": record.driver,
        "ID": id,
        "IPv4": (record.driver == "bridge").to_string(),
        "IPv6": record.ipv6.is_some().to_string(),
        "Internal": record.internal.to_string(),
        "Labels": labels.join(","),
        "Name": record.name,
        "Scope": "local",
    });
    match row {
        Value::Object(row) => row,
        _ => Map::new(),
    }
}

fn inspect(args: InspectArgs, session: &Session) -> anyhow::Result<ExitCode> {
    let engine = session.engine()?;
    let inspected = args
        .networks
        .into_iter()
        .map(|name| async { Ok::<_, anyhow::Error>(describe(&network::inspect(&engine, name).await?)) });
    objects::inspect_each(session, args.format.as_ref(), inspected)
}

/// Shapes a network as docker's `network inspect` does.
fn describe(inspected: &InspectedNetwork) -> Value {
    let InspectedNetwork { record, containers } = inspected;
    let config = |subnet: &Subnet| {
        let mut config = json!({ "Subnet": subnet.net.to_string(), "Gateway": subnet.gateway.to_string() });
        if let Some(pool) = subnet.pool {
            config["IPRange"] = pool.to_string().into();
        }
        config
    };
    let configs: Vec<Value> = [&record.ipv4, &record.ipv6].into_iter().flatten().map(config).collect();
    let containers: BTreeMap<&String, Value> = containers
        .iter()
        .map(|(id, on)| {
            let on = json!({
                "Name": on.name,
                "EndpointID": on.endpoint_id,
                "MacAddress": on.mac,
                "IPv4Address": on.ipv4,
                "IPv6Address": on.ipv6,
            });
            (id, on)
        })
        .collect();
    json!({
        "Name": record.name,
        "Id": record.id,
        "Created": record.created.map(|time| time.to_string()).unwrap_or_else(|| "0001-01-01T00:00:00Z".into()),
        "Scope": "local",
        "Driver": record.driver,
        "EnableIPv4": record.driver == "bridge",
        "EnableIPv6": record.ipv6.is_some(),
        "IPAM": { "Driver": "default", "Options": {}, "Config": configs },
        "Internal": record.internal,
        "Attachable": false,
        "Ingress": false,
        "ConfigFrom": { "Network": "" },
        "ConfigOnly": false,
        "Containers": containers,
        "Options": record.options,
        "Labels": record.labels,
    })
}

fn connect(args: ConnectArgs, session: &Session) -> anyhow::Result<ExitCode> {
    let ConnectArgs { network, container, alias, ip, ip6 } = args;
    let endpoint = Endpoint { network, aliases: alias, ipv4: ip, ipv6: ip6, ..Endpoint::default() };
    let engine = session.engine()?;
    session.wait(Threads::One, network::connect(&engine, container, endpoint, clock::now()))?;
    Ok(ExitCode::SUCCESS)
}

fn rm(args: RmArgs, session: &Session) -> anyhow::Result<ExitCode> {
    let engine = session.engine()?;
    let missing = |error: &network::NetworkError| args.force && error.is_not_found();
    objects::do_each(session, &args.networks, missing, |name| network::remove(&engine, name))
}

fn prune(args: &PruneArgs, session: &Session) -> anyhow::Result<ExitCode> {
    let filter = prune_filter(&args.filter)?;
    let engine = session.engine()?;
    let removed = session.wait(Threads::One, network::prune(&engine, filter))?;
    if !removed.is_empty() {
        terminal::print_line(&format!("Deleted Networks:\n{}\n", removed.join("\n")))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads the filters of `prune`.
pub(crate) fn prune_filter(texts: &[String]) -> anyhow::Result<PruneFilter> {
    let mut filter = PruneFilter::default();
    for text in texts {
        let (name, value) = objects::filter(text)?;
        match name.as_str() {
            "label" => filter.labels.push(value),
            "label!" => filter.not_labels.push(value),
            "until" => filter.before = Some(crate::flags::cache_filter::before(&value, clock::now())?),
            _ => anyhow::bail!("invalid filter `{text}`; there are label, label! and until"),
        }
    }
    Ok(filter)
}
