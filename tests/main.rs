//! End-to-end tests on the real binary: one file per command, and the house rules.

#![expect(unreachable_pub, reason = "one test binary: `pub` marks what files share")]
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests start programs, write fixtures, and fail by panicking"
)]

mod apps;
mod attach;
mod build;
mod cache_transfer;
mod call;
mod cgroup_v2;
mod chaos;
mod clients;
mod commit;
mod completion;
mod container;
mod contexts;
mod cp;
mod crash;
mod create;
mod debug;
mod diff;
mod du;
mod events;
mod exec;
mod explain;
mod export;
mod fetch;
mod full_disk;
mod history;
mod house;
mod images;
mod import;
mod info;
mod inspect;
mod interrupt;
mod kill;
mod load;
mod login;
mod logout;
mod logs;
mod many;
mod network;
mod oci;
mod outputs;
mod pause;
mod port;
mod prune;
mod ps;
mod pull;
mod push;
mod readme;
mod registry;
mod rename;
mod reproducible;
mod restart;
mod rm;
mod rmi;
mod rootless;
mod run;
mod save;
mod serve;
mod services;
mod start;
mod stats;
mod step_options;
mod steps;
mod stop;
mod support;
mod system;
mod tag;
mod top;
mod unpause;
mod update;
mod version;
mod volume;
mod wait;
