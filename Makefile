# `make demo` shows the whole journey; `make test` runs every test. Both install what they need.
target := x86_64-unknown-linux-musl
binary := target/$(target)/release/slipway

.PHONY: demo test check bench release clean

demo: release
	scripts/demo $(binary)

release:
	scripts/setup build
	cargo build --quiet --release --locked --target $(target)

test:
	scripts/setup build test
	scripts/debian-base target/debian-bookworm.tar
	cargo test --workspace --locked
	REGISTRY_TEST_STORAGE=memory cargo test --locked -p registry --test conformance
	REGISTRY_TEST_STORAGE=bucket cargo test --locked -p registry --test conformance

check:
	scripts/setup build check
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo deny --log-level error check bans licenses sources
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked --quiet

bench: release
	scripts/setup test
	cargo build --quiet --release --locked --target $(target) -p registry --example load -p runtime --example bare
	failed=; for bench in $(filter-out benches/harness.py benches/peers.py,$(wildcard benches/*.py)); do python3 $$bench $(binary) --plots target/plots || failed=1; done; [ -z "$$failed" ]

clean:
	cargo clean
