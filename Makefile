# Basalt's commands. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help run test test-long check bench vectors setup setup-test

CARGO ?= cargo
# Where rustup puts cargo, for a shell that was opened before.
export PATH := $(PATH):$(HOME)/.cargo/bin
RUST_MIN := $(shell sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
# Arguments for `basalt dev` in `make run`, such as ARGS="--fresh --block-ms 500".
ARGS ?=

help: ## List the commands
	@echo "make COMMAND"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-18s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: setup ## Install what is missing, build in release mode, start `basalt dev` (ARGS="...")
	$(CARGO) build --release --bin basalt
	exec target/release/basalt dev $(ARGS)

test: setup setup-test ## Run all tests, those by real clients too
	$(CARGO) test
	$(CARGO) build --release --bin basalt
	tests/clients/run

test-long: setup setup-test ## Run what takes half an hour: thousands of blocks, a million signatures, kills
	BASALT_PARALLEL_SEEDS=5000 $(CARGO) test --release --test parallel_equals_serial
	BASALT_RECOVER_TESTS=1000000 $(CARGO) test --release --lib crypto::recover
	BASALT_CRASH_ROUNDS=50 $(CARGO) test --release --test crash_recovery

check: setup units ## Formatting, lints, layout, documentation, licences, units
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets -- -D warnings
	$(CARGO) test --test tidy
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps --lib
	@if $(CARGO) deny --version >/dev/null 2>&1; then $(CARGO) deny check; \
	    else echo "cargo-deny is not installed: licences and advisories are not checked"; fi

bench: setup setup-test ## Run the benches, each named after the question that it answers
	$(CARGO) bench

vectors: setup ## Run the conformance suites of a folder: make vectors VECTORS=DIR
	@tests/run-vectors "$(VECTORS)"

# Nothing is installed where nothing is missing, so that a prepared machine needs no network.
setup: ## Install missing system packages (Debian 12 or 13) and check the Rust toolchain
	@missing=(); \
	command -v cc >/dev/null && command -v make >/dev/null || missing+=(build-essential); \
	if command -v pkg-config >/dev/null; then \
	    pkg-config --exists 'hwloc >= 2.8' || missing+=(libhwloc-dev); \
	    pkg-config --exists libudev || missing+=(libudev-dev); \
	else missing+=(pkg-config libhwloc-dev libudev-dev); fi; \
	$(call install,$${missing[@]+"$${missing[@]}"})
	@command -v $(CARGO) >/dev/null || { \
	    echo "cargo is missing: install Rust $(RUST_MIN) or newer with rustup"; exit 1; }
	@found=$$(rustc --version | sed -E 's/^rustc ([0-9.]+).*/\1/'); \
	[ "$$(printf '%s\n' "$(RUST_MIN)" "$$found" | sort -V | head -1)" = "$(RUST_MIN)" ] || { \
	    echo "Rust $$found is too old: run 'rustup update' for $(RUST_MIN) or newer"; exit 1; }

setup-test: ## Install what the tests need: gpg, ssh-keygen, node, npm, python, and their packages
	@missing=(); \
	command -v node >/dev/null || missing+=(nodejs); \
	command -v npm >/dev/null || missing+=(npm); \
	python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv); \
	command -v gpg >/dev/null || missing+=(gnupg); \
	command -v ssh-keygen >/dev/null || missing+=(openssh-client); \
	$(call install,$${missing[@]+"$${missing[@]}"})
	@major=$$(node --version | sed -E 's/^v([0-9]+).*/\1/'); \
	[ "$$major" -ge 18 ] || { \
	    echo "node $$major is too old for the client tests: install node 18 or newer"; exit 1; }
	@tests/clients/install

# $(call install,PACKAGES): with apt-get, through sudo unless root; nothing for no packages.
define install
packages=($(1)); \
if [ $${#packages[@]} -gt 0 ]; then \
    echo "installing $${packages[*]}"; \
    command -v apt-get >/dev/null || { \
        echo "apt-get is missing: install by hand what Debian calls $${packages[*]}"; exit 1; }; \
    as_root=(); [ "$$(id -u)" -eq 0 ] || as_root=(sudo); \
    $${as_root[@]+"$${as_root[@]}"} apt-get update -q; \
    $${as_root[@]+"$${as_root[@]}"} env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -q --no-install-recommends "$${packages[@]}"; \
fi
endef

include systemd/units.mk
include kernel-config/kernel.mk
include image/image.mk
include provisioning/provisioning.mk
