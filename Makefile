# One profile only, release: RocksDB and the SDK take minutes, twice would be twice as long.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help demo build test test-milvus bench soak fuzz fmt lint doc deny setup rocksdb

cargo := . scripts/env.sh && cargo

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## */\1\t/p' $(MAKEFILE_LIST) | expand -t 16

demo: build ## backup, loss and restore of a real etcd and MinIO, in a minute
	scripts/servers.sh etcd-3.6 minio python
	scripts/demo.sh

build: rocksdb ## the binary
	$(cargo) build --release --locked

test: rocksdb ## all tests, then the acceptance tests against real servers (FULL=1: in full size)
	scripts/servers.sh
	$(cargo) test --release --locked --no-fail-fast
	tests/acceptance.sh
	tests/examples.sh
	tests/recovery.sh

soak: rocksdb ## what takes long: SOAK revisions (1000) of each etcd version brought back, the collection protocol in large, 500 kills, commands beside each other for long
	scripts/servers.sh etcd-3.5 etcd-3.6 etcd-3.7
	export SOAK=$${SOAK:-1000}; $(cargo) test --release --locked --test proof -- --nocapture --test-threads=1
	export ICECORE_SOAK=1; $(cargo) test --release --locked --test kill --test beside
	export ICECORE_SOAK=1; $(cargo) test --release --locked --test collection

test-milvus: build ## a real Milvus, backed up, wiped and brought back
	-scripts/setup.sh java # without it Kafka and Pulsar are left out, and the test says so
	scripts/servers.sh etcd-3.5 minio python milvus wal kafka pulsar
	tests/milvus.sh
	tests/woodpecker.sh

bench: build ## measures, and writes the tables of docs/performance.md but Milvus's, which benches/milvus.sh writes (SCALE=1 INDEX="10000000 100000000" DAYS=90)
	scripts/setup.sh peers
	scripts/servers.sh peers etcd-3.6 minio python
	. scripts/env.sh && benches/micro.py
	export TMPDIR=$${BENCH_DIR:-/dev/shm}; . scripts/env.sh && benches/document.py index "In memory (tmpfs)" cargo bench --locked --bench index -- $${INDEX:-10000000 100000000}
	. scripts/env.sh && benches/peers.py run --rounds $${ROUNDS:-3} --scale $${SCALE:-1} && benches/peers.py report
	benches/minio.sh --rounds $${ROUNDS:-3} --scale $${SCALE:-1}
	benches/far.sh --rounds $${ROUNDS:-3}
	benches/etcd.sh
	for part in restic snapshots start chunks year; do benches/collection.sh $$part || exit; done

fuzz: rocksdb ## every fuzz target for a minute (SECONDS_EACH=60)
	scripts/fuzz.sh

fmt: ## format the sources
	cargo fmt

lint: rocksdb ## formatting and clippy
	cargo fmt --check
	$(cargo) clippy --release --locked --all-targets -- -D warnings

doc: rocksdb ## the library's documentation, without warnings
	RUSTDOCFLAGS="-D warnings"; export RUSTDOCFLAGS; $(cargo) doc --release --locked --no-deps

deny: setup ## licences and origins of the dependencies
	scripts/deny.sh

setup:
	@scripts/setup.sh

rocksdb: setup
	@scripts/rocksdb.sh
