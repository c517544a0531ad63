SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo demo-down test test-clients check crds manifests image tools servers chaos simulate fuzz bench release node package

scripts := .ci/run .ci/release charts/render clients/python/check fuzz/run tests/image tests/node demo/up demo/down demo/take tests/testbed/testbed tests/testbed/tools

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

demo: ## run the operator on a real API server and a real RabbitMQ, with the buckets of examples/
	@demo/up

demo-down: ## stop the demo and remove what it has stored
	@demo/down

# What depends on the broker runs on RabbitMQ 4 as well. That needs root; the gate insists on it.
on_rabbitmq_4 := broker:: celery:: client:: edits:: engine:: ledgers:: moves:: permissions:: quorum:: recipes::workers:: refills:: repairs:: unavailable:: waiting::

# What the tests ask for themselves as well. Here nothing waits for a build that has been told how long to wait.
of_tests := servers python python-client javascript go-worker keda helm helm-3 lua prometheus chromium axe

test: tools ## run all tests, on real servers too
	cargo test --locked --workspace
	@if tests/testbed/tools rabbitmq-4; then echo "once more, on RabbitMQ 4:"; \
		TESTBED_BROKER=4 cargo test --locked --test integration -- --include-ignored $(on_rabbitmq_4); \
	elif [[ -z $${CI:-} ]]; then echo "SKIPPED, for the reason above: the tests on RabbitMQ 4"; \
	else exit 1; fi
	@$(MAKE) --no-print-directory test-clients

test-clients: ## check the Python client, with the newest and the oldest Celery, on real brokers
	clients/python/check
	@if tests/testbed/tools rabbitmq-4; then echo "once more, on RabbitMQ 4:"; TESTBED_BROKER=4 clients/python/check; \
	elif [[ -z $${CI:-} ]]; then echo "SKIPPED, for the reason above: the Python client on RabbitMQ 4"; \
	else exit 1; fi

chaos: servers ## break things at random and count every token: SEED=… DURATION=… (seconds) OPERATORS=… RIVALS=… FAULTS=…
	cargo test --locked --test chaos -- $(if $(SEED),--seed $(SEED)) --seconds $(or $(DURATION),600) \
		$(foreach number,$(OPERATORS),--operators $(number)) \
		$(foreach number,$(RIVALS),--rivals $(number)) $(foreach fault,$(FAULTS),--fault $(fault))

simulate: ## run simulated schedules, without servers: SEEDS=… (how many) FIRST=… FAILURES=…, or SEED=… (one, and its trace)
	$(if $(SEED),SEED=$(SEED)) $(if $(FIRST),FIRST=$(FIRST)) $(if $(FAILURES),FAILURES=$(FAILURES)) SEEDS=$(or $(SEEDS),1000000) \
		cargo run --quiet --locked --release --package token-bucket-simulation --example simulate

fuzz: ## run what reads other people's messages and texts on random input: DURATION=… (seconds for each target)
	@for target in $(basename $(notdir $(wildcard fuzz/fuzz_targets/*.rs))); do \
		echo "fuzz/run $$target"; FRESH=1 fuzz/run $$target $(or $(DURATION),20); done

bench: servers ## measure against the limits of the broker and of the API server
	cargo bench --locked --bench operator

check: ## formatting, lints, generated files, scripts, licences and duplicates of dependencies
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- --deny warnings
	@cargo run --quiet --locked -- crd | diff -u crds/tokenbuckets.yaml - || { echo "crds/ is out of date: run make crds" >&2; exit 1; }
	@cmp crds/tokenbuckets.yaml charts/token-bucket-operator/files/tokenbuckets.yaml || { echo "the chart's copy is out of date: run make crds" >&2; exit 1; }
	@rendered=$$(mktemp -d); trap 'rm -r "$$rendered"' EXIT; charts/render "$$rendered"; \
		{ diff -u deploy/install.yaml "$$rendered/deploy/install.yaml" && diff -ru tests/chart "$$rendered/tests/chart"; } \
		|| { echo "deploy/ or tests/chart/ is out of date: run make manifests" >&2; exit 1; }
	@if command -v shellcheck >/dev/null; then echo shellcheck; shellcheck -x $(scripts); else echo "no shellcheck here: the scripts are not checked"; fi
	"$$(tests/testbed/tools deny)" --locked check --hide-inclusion-graph bans licenses sources

crds: ## write crds/ and docs/reference.md from crates/api
	cargo run --quiet --locked -- crd >crds/tokenbuckets.yaml.new
	mv crds/tokenbuckets.yaml.new crds/tokenbuckets.yaml
	UPDATE_GENERATED=1 cargo test --quiet --locked --package token-bucket-api --lib reference
	cp crds/tokenbuckets.yaml charts/token-bucket-operator/files/

manifests: crds ## write deploy/install.yaml and tests/chart/ from the chart
	charts/render

image: ## build the image without Docker (needs root) and try the operator in it; ARCH=arm64: for that one, emulated
	tests/image $(ARCH)

node: ## install the chart on a real node (needs root): kubelet and containerd run the pods from the image
	tests/node

package: ## pack the crates that are published, and build them from what is packed
	cargo package --locked --package token-bucket-schedule --package token-bucket-endpoint --package token-bucket-client

release: ## make a release, here: VERSION=…
	.ci/release "$(VERSION)"

tools: ## install what the tests use, where it is missing
	@tests/testbed/tools $(of_tests) >/dev/null

servers:
	@tests/testbed/tools servers
