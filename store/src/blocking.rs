//! The one door from async code to work that blocks: files, hashing, compression.

use std::sync::LazyLock;

use tokio::sync::Semaphore;

/// How many jobs run at once. More than there are processors, because many wait for a disk.
const AT_ONCE: usize = 64;

static PERMITS: LazyLock<Semaphore> = LazyLock::new(|| Semaphore::new(AT_ONCE));

/// Runs work that blocks on a thread made for it, and waits for what it gives.
///
/// Only 64 jobs run at once in a process; the others wait their turn. So a job must not wait for another job of
/// this function, and a job that waits for a slow peer belongs in a thread of its own.
///
/// Dropping the future does not stop work that has begun.
///
/// # Panics
///
/// Panics when the work does.
pub async fn run<T, F>(work: F) -> T
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    let permit = PERMITS.acquire().await.expect("the semaphore is never closed");
    #[expect(clippy::disallowed_methods, reason = "this is the bounded door that the ban points to")]
    let job = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        work()
    });
    match job.await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only a runtime that is shutting down cancels; nobody polls us after that.
            Err(_) => std::future::pending().await,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().build().expect("built")
    }

    #[test]
    fn work_gives_its_value_and_its_panic() {
        assert_eq!(runtime().block_on(run(|| 7)), 7);
        let panic = std::panic::catch_unwind(|| runtime().block_on(run(|| panic!("on purpose"))));
        assert_eq!(panic.expect_err("passed on").downcast_ref::<&str>(), Some(&"on purpose"));
    }

    #[test]
    fn only_so_many_jobs_run_at_once() {
        static RUNNING: AtomicUsize = AtomicUsize::new(0);
        static MOST: AtomicUsize = AtomicUsize::new(0);
        runtime().block_on(async {
            let job = || {
                MOST.fetch_max(RUNNING.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(5));
                RUNNING.fetch_sub(1, Ordering::SeqCst);
            };
            let jobs: Vec<_> = (0..3 * AT_ONCE).map(|_| tokio::spawn(run(job))).collect();
            for job in jobs {
                job.await.expect("no panic");
            }
        });
        assert!((2..=AT_ONCE).contains(&MOST.load(Ordering::SeqCst)));
    }
}
