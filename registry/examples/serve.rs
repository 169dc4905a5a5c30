//! Serves a registry out of memory, for tests that come before the command: `serve [ADDR [sparse]]`.
//!
//! Prints the address it listens on, and stops on Ctrl-C.

#![expect(clippy::print_stdout, reason = "the address is for whoever started this")]

use std::error::Error;

use registry::server::{ServeOptions, Server};
use registry::storage::objects::memory::Memory;
use registry::storage::{Storage, StorageOptions};

/// As the program has it: musl's own is slow.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let addr = arguments.next().unwrap_or_else(|| "127.0.0.1:5000".to_owned()).parse()?;
    let mut options = ServeOptions::new(Storage::new(Memory::default().backend(), StorageOptions::default()), addr);
    options.sparse = arguments.next().is_some_and(|word| word == "sparse");
    let server = Server::bind(options).await?;
    println!("{}", server.local_addr());
    server
        .run(async {
            // Without a handler there is nothing to wait for, and stopping is what Ctrl-C does anyway.
            let _ = tokio::signal::ctrl_c().await;
        })
        .await;
    Ok(())
}
