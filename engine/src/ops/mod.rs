//! One file per command: the options it takes, the result it gives, and one async function.

pub mod build;
pub mod debug;
pub mod du;
pub mod history;
pub mod images;
pub mod import;
pub mod inspect;
pub mod load;
pub mod login;
pub mod logout;
pub mod prune;
pub mod pull;
pub mod push;
pub mod rmi;
pub mod run;
pub mod save;
pub mod serve;
pub mod tag;

mod find;
