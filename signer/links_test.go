package signer_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/keyturn/keyturn/"

// What the packages and the program that hold keys may link: no client of the Kubernetes API, and nothing that brings
// one.
var (
	keydirLinks = []string{
		module + "signer/keydir", module + "internal/signer/pkcs11uri", module + "internal/strictjson", module + "jwks",
		module + "token", module + "internal/hint", module + "internal/keyfile",
		"github.com/fsnotify/fsnotify", "golang.org/x/sys",
	}
	ledgerLinks = []string{module + "signer/ledger", module + "internal/lockfile", "golang.org/x/sys"}
	signerLinks = append(slices.Clone(keydirLinks), module+"signer", module+"signer/ledger",
		module+"internal/signer/backend", module+"internal/lockfile",
		"google.golang.org/grpc", "google.golang.org/genproto/googleapis/rpc/status", "google.golang.org/protobuf",
		"k8s.io/externaljwt/apis/v1", "golang.org/x/crypto/cryptobyte", "golang.org/x/net",
		"golang.org/x/text",
		"github.com/prometheus/client_golang", "github.com/prometheus/client_model", "github.com/prometheus/common",
		"github.com/prometheus/procfs", "github.com/beorn7/perks", "github.com/cespare/xxhash",
		"github.com/munnerz/goautoneg", "go.yaml.in/yaml/v2",
	)
	programLinks = append(slices.Clone(signerLinks), module+"cmd/keyturn-signer", module+"internal/signer",
		module+"internal/daemon",
		"github.com/miekg/pkcs11", "github.com/klauspost/compress",
	)
)

func TestLinks(t *testing.T) {
	for name, allowed := range map[string][]string{
		module + "signer/keydir": keydirLinks, module + "signer/ledger": ledgerLinks, module + "signer": signerLinks,
		module + "cmd/keyturn-signer": programLinks,
	} {
		linked := links(t, name)
		if !slices.Contains(linked, name) {
			t.Errorf("%s was not checked", name)
		}
		for _, link := range linked {
			fits := func(prefix string) bool { return link == prefix || strings.HasPrefix(link, prefix+"/") }
			if !slices.ContainsFunc(allowed, fits) {
				t.Errorf("%s links %s", name, link)
			}
		}
	}
}

// links returns a package and all that it depends on outside the standard library.
func links(t *testing.T, name string) (all []string) {
	t.Helper()
	const format = "{{if not .Standard}}{{.ImportPath}}{{end}}"
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", format, name).Output()
	if err != nil {
		t.Fatalf("go list -deps %s: %v", name, err)
	}
	return strings.Fields(string(out))
}
