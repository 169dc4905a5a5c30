//! One file per command: the options it takes, the result it gives, and one async function.

pub mod attach;
pub mod build;
pub mod create;
pub mod debug;
pub mod du;
pub mod history;
pub mod images;
pub mod import;
pub mod inspect;
pub mod kill;
pub mod load;
pub mod login;
pub mod logout;
pub mod logs;
pub mod network;
pub mod oci;
pub mod prune;
pub mod ps;
pub mod pull;
pub mod push;
pub mod rm;
pub mod rmi;
pub mod run;
pub mod save;
pub mod serve;
pub mod start;
pub mod stop;
pub mod tag;
pub mod unpause;
pub mod volume;
pub mod wait;

mod find;
