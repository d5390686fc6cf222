# `make help` says what there is. The demo, the tests and the benchmark run real Kubernetes on this machine.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

# The Kubernetes minor that `make kube` builds, a folder of tools/kube; its go.mod pins the patch release.
KUBE_MINOR ?= 1.36
KUBE_VERSION := $(shell awk '$$1 == "k8s.io/kubernetes" { print $$2 }' tools/kube/$(KUBE_MINOR)/go.mod)
CAPI_VERSION := $(shell awk '$$1 == "sigs.k8s.io/cluster-api" { print $$2 }' tools/capi/go.mod)
# The version of a release; other builds name only their commit.
VERSION ?=
LDFLAGS := -s -w $(if $(VERSION),-X github.com/keyturn/keyturn/internal/version.version=$(VERSION))
GO_MODULES := . test/signer test/dashboard $(patsubst %/go.mod,%,$(wildcard tools/*/go.mod tools/kube/*/go.mod))

export CGO_ENABLED := 0
# Programs, images, tools and tests are compiled with the same flags, so that they share what is compiled.
export GOFLAGS := $(strip $(shell go env GOFLAGS) -trimpath)
ifdef KEYTURN_KUBE_BIN_DIR
export KUBEBUILDER_ASSETS ?= $(KEYTURN_KUBE_BIN_DIR)
endif

.PHONY: help
help: ## Say what each target does
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build every program into bin/, static
	@mkdir -p bin
	go build -ldflags '$(LDFLAGS)' -o bin/ ./cmd/...
	@ln -sf kubectl-keyturn bin/kubectl_complete-keyturn

.PHONY: images
images: build ## Pack the programs that run in clusters as OCI archives, bin/images/NAME.tar
	go run ./tools/images -version '$(or $(VERSION),dev)'

.PHONY: release
release: bin/tools/helm bin/tools/validate-krew-manifest ## Make what is published of a version, in bin/release (VERSION=v0.1.0)
	go run ./tools/release -version '$(VERSION)'

.PHONY: kube kubeadm
kube: ## Build Kubernetes, etcd and CoreDNS into bin/kube/VERSION, if they are not there (KUBE_MINOR=1.36)
kubeadm: ## Build what clusters of kubeadm need besides, kubeadm itself, into the same directory
kube kubeadm:
	@if [ -n "$${KEYTURN_KUBE_BIN_DIR:-}" ]; then \
		echo "using the Kubernetes binaries in $$KEYTURN_KUBE_BIN_DIR"; \
	else \
		tools/kube/build $(KUBE_MINOR) bin/kube/$(KUBE_VERSION) $(filter kubeadm,$@); \
	fi

.PHONY: capi
capi: kubeadm ## Build Cluster API, and its provider of machines of this host, into bin/capi/VERSION
	@tools/capi/build bin/capi/$(CAPI_VERSION) $(or $(KEYTURN_KUBE_BIN_DIR),bin/kube/$(KUBE_VERSION))/kubectl

.PHONY: packages
packages: ## Install the Debian packages that nodes and load balancers need, if they are missing
	@hack/packages.sh

.PHONY: demo
demo: packages kube build ## Create clusters, rotate a signing key, show that nothing was refused
	@hack/demo/run.sh up

.PHONY: demo-down
demo-down: ## Remove what the demo left
	@hack/demo/run.sh down

.PHONY: demo-kubeadm demo-kubeadm-down
demo-kubeadm: packages kubeadm build images bin/tools/helm ## Adopt a cluster that kubeadm made, and rotate its signing key twice
	@hack/demo/kubeadm.sh up

demo-kubeadm-down: ## Remove what the demo of kubeadm left
	@hack/demo/kubeadm.sh down

.PHONY: demo-capi demo-capi-down
demo-capi: packages capi build images bin/tools/helm ## Adopt a cluster of Cluster API, with real nodes, and rotate its signing key
	@hack/demo/capi.sh up

demo-capi-down: ## Remove what the demo of Cluster API left
	@hack/demo/capi.sh down

# GOGC has the garbage collectors of the tests, and of the API servers that they start, run less often: processors are
# scarcer than memory. The end-to-end tests run after the others, on the Kubernetes of KUBE_MINOR: those with three API
# servers alone, and the rest two at a time, since each waits for a part of its time. PKCS #11 needs cgo.
.PHONY: test
test: capi build bin/tools/helm bin/tools/promtool bin/tools/validate-krew-manifest ## Run all tests, with real API servers and, at the end, real clusters
	@hack/packages.sh softhsm2 gcc libc6-dev chromium fonts-inter
	GOGC=400 go test -p 2 -timeout 30m $$(go list ./... | grep -v '/test/e2e')
	go -C test/signer test -count 1 -timeout 10m ./...
	go -C test/dashboard test -count 1 -timeout 10m ./...
	go -C tools/mutate test ./...
	CGO_ENABLED=1 go test -p 2 -timeout 10m ./signer/... ./internal/signer/...
	KEYTURN_E2E_KUBERNETES=$(KUBE_VERSION) KEYTURN_TEST_CAPI=1 go test -parallel 2 -timeout 70m -count 1 ./test/e2e

.PHONY: test-capi
test-capi: capi build bin/tools/helm packages ## Rotate the signing key of a cluster of Cluster API, with signers
	KEYTURN_TEST_CAPI=1 go test -timeout 30m -count 1 -run '^TestClusterAPI$$' ./test/e2e

# The tests that take long: KEYTURN_TEST_LONG is what each of them asks for.
.PHONY: test-long
test-long: capi build bin/tools/helm bin/tools/validate-krew-manifest packages ## Run the tests that take hours, on clusters of kubeadm and Cluster API
	KEYTURN_TEST_LONG=1 go test -p 1 -timeout 200m -count 1 -v \
		-run 'Test(ThreeControlPlanes|Real(Life|Node)|KubeadmLong|RefreshByWaiting|Rotate(ByWaiting|TenTimes|UnderFaults))' \
		./internal/local/{kubeadm,machines} ./internal/agent/agentpod ./internal/controlplane/kubeadm ./test/e2e
	KEYTURN_TEST_LONG=1 go test -timeout 90m -count=1 -v -run TestReproducibleBuild ./tools/release
	go -C tools/capi test ./...
	KEYTURN_TEST_LONG=1 go test -p 1 -timeout 180m -count 1 -v -run 'TestCluster|TestScale' ./internal/local/capi ./test/e2e

.PHONY: bench
bench: packages capi build images bin/tools/helm ## Measure rotation time, re-signing and memory, on real clusters
	@hack/bench.sh

.PHONY: mutate stress
mutate: ## Measure whether tests notice planted faults (PACKAGES="./token ./jwks")
	@hack/mutate.sh

stress: ## Run tests many times on a busy machine (PACKAGES=./token COUNT=30)
	@hack/stress.sh

.PHONY: lint
lint: bin/tools/golangci-lint ## Check the code by the linters of .golangci.yml, and the documentation by our own
	bin/tools/golangci-lint run ./...
	go run ./tools/docs -lint

.PHONY: vulncheck
vulncheck: bin/tools/govulncheck ## Check the code and its modules for known vulnerabilities
	@hack/vulncheck.sh

.PHONY: generate
generate: bin/tools/controller-gen ## Write the generated code, manifests and references
	bin/tools/controller-gen paths=./api/... object crd output:crd:dir=api/v1alpha1/manifests
	cd tools/capi && ../../bin/tools/controller-gen paths=./api/... object crd output:crd:dir=config/crd
	cp api/v1alpha1/manifests/{keyturn.dev_userclusters,policy,rbac}.yaml deploy/charts/keyturn/files/
	go run ./tools/docs

.PHONY: man
man: ## Write the man pages of all programs into bin/man
	go run ./tools/docs -man bin/man

.PHONY: verify
verify: bin/tools/controller-gen bin/tools/helm bin/tools/promtool ## Check generated files, go.mod files, formatting and the chart
	hack/verify-generated.sh
	hack/verify-chart.sh
	hack/verify-dependencies.sh
	@for module in $(GO_MODULES); do echo "go -C $$module mod tidy -diff"; go -C $$module mod tidy -diff; done
	@unformatted=$$(gofmt -l api cmd internal jwks signer test token tools); \
		[ -z "$$unformatted" ] || { echo "run gofmt -w on:" $$unformatted >&2; exit 1; }

.PHONY: clean
clean: ## Remove what was built, except Kubernetes and etcd (bin/kube)
	[ ! -d bin ] || find bin -mindepth 1 -maxdepth 1 ! -name kube -exec rm -rf {} +

bin/tools/golangci-lint bin/tools/govulncheck &: tools/lint/go.mod
	go build -C tools/lint -o $(CURDIR)/bin/tools/ tool

bin/tools/controller-gen: tools/generate/go.mod
	go build -C tools/generate -o $(CURDIR)/bin/tools/ tool

bin/tools/helm: tools/helm/go.mod
	go build -C tools/helm -ldflags '-s -w' -o $(CURDIR)/bin/tools/ tool

bin/tools/validate-krew-manifest: tools/krew/go.mod
	go build -C tools/krew -ldflags '-s -w' -o $(CURDIR)/bin/tools/ tool

# Without its discovery of clouds, which checking rules does not need, and which takes minutes to compile.
bin/tools/promtool: tools/promtool/go.mod
	go build -C tools/promtool -tags remove_all_sd -ldflags '-s -w' -o $(CURDIR)/bin/tools/ tool
