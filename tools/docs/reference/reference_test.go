package reference

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// root is the directory of the repository.
const root = "../../.."

func pages(t *testing.T) map[string][]byte {
	t.Helper()
	all, err := Pages(root)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestSameEverywhere wants the same bytes from another user with another environment.
func TestSameEverywhere(t *testing.T) {
	want, wantMan := pages(t), Man()
	t.Setenv("HOME", t.TempDir())
	t.Setenv("KUBECONFIG", "/none")
	t.Setenv("SOURCE_DATE_EPOCH", "1")
	t.Setenv("TZ", "Asia/Tokyo")
	if diff := cmp.Diff(want, pages(t)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(wantMan, Man()); diff != "" {
		t.Error(diff)
	}
}

// TestColumns wants lines of 120 columns, but of code, of patterns, and of what a configuration file begins with.
func TestColumns(t *testing.T) {
	for name, page := range pages(t) {
		inCode := false
		for line := range strings.SplitSeq(string(page), "\n") {
			if strings.HasPrefix(line, "```") {
				inCode = !inCode
			}
			if n := utf8.RuneCountInString(line); n > columns && !inCode && strings.Contains(strings.TrimSpace(line), " ") {
				t.Errorf("%s: %d columns: %s", name, n, line)
			}
		}
	}
}

// TestAllCommands wants each command on the page of its program and in a man page, with each of its flags.
func TestAllCommands(t *testing.T) {
	all, man := pages(t), Man()
	for _, program := range Programs() {
		text, suffix := string(all[program.Name()+".md"]), "."+section(program)
		for _, c := range allCommands(program) {
			_, section, found := strings.Cut(text, "\n## "+c.path+"\n")
			if !found {
				t.Errorf("%s.md has no section of %s", program.Name(), c.path)
				continue
			}
			section, _, _ = strings.Cut(section, "\n## ")
			page := string(man[strings.ReplaceAll(c.path, " ", "-")+suffix])
			for _, flag := range c.flags {
				if !strings.Contains(section, "--"+flag) {
					t.Errorf("the section of %s has no --%s", c.path, flag)
				}
				if !strings.Contains(page, `--`+flag+`\fP`) {
					t.Errorf("the man page of %s has no --%s", c.path, flag)
				}
			}
		}
	}
}

// TestManPages wants pages that man finds by their first lines: a title without a date, and a name with a description.
func TestManPages(t *testing.T) {
	all := Man()
	title := regexp.MustCompile(`(?m)^\.TH "((GKECTL|KUBECTL-KEYTURN)" "1|KEYTURN-[A-Z]+" "8)" "" "Keyturn" "Keyturn"$`)
	for name, page := range all {
		if !title.Match(page) {
			t.Errorf("%s has no title, or a date in it", name)
		}
		if !bytes.Contains(page, []byte(".SH NAME\n"+strings.TrimSuffix(name, filepath.Ext(name))+` \- `)) {
			t.Errorf("%s has no name", name)
		}
		if !bytes.Contains(page, []byte(".SH EXIT STATUS\n")) {
			t.Errorf("%s has no exit status", name)
		}
	}
	for _, name := range []string{
		"gkectl.1", "gkectl-update-credentials-ksa-signing-key-rotate.1", "kubectl-keyturn.1", "keyturn-controller.8",
		"keyturn-signer.8", "keyturn-signer-ledger.8", "keyturn-local.8", "keyturn-agent-apply.8", "keyturn-fleet.8",
	} {
		if all[name] == nil {
			t.Errorf("there is no %s", name)
		}
	}
}

// TestAllMetrics wants each name of a metric in the code of the programs to be on the page.
func TestAllMetrics(t *testing.T) {
	page := string(pages(t)["metrics.md"])
	name := regexp.MustCompile(`^keyturn_[a-z_]+$`)
	found := map[string]bool{}
	for _, dir := range []string{"cmd", "internal", "signer"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			ast.Inspect(f, func(n ast.Node) bool {
				if l, ok := n.(*ast.BasicLit); ok && l.Kind == token.STRING {
					if text, err := strconv.Unquote(l.Value); err == nil && name.MatchString(text) {
						found[text] = true
					}
				}
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(found) < 10 {
		t.Errorf("only %d metrics are in the code", len(found))
	}
	for metric := range maps.Keys(found) {
		if !strings.Contains(page, "`"+metric+"`") {
			t.Errorf("metrics.md does not have %s", metric)
		}
	}
	for _, line := range []string{
		"- `keyturn_rotation_step` (gauge; by `namespace`, `name`, `step`)",
		"- `keyturn_signer_sign_duration_seconds` (histogram)",
		"- `keyturn_signer_restarts_total` (counter)",
		"- `workqueue_depth` (by `name`, `controller`, `priority`)",
	} {
		if !strings.Contains(page, line) {
			t.Errorf("metrics.md has no line %s", line)
		}
	}
}

// TestConfigFields wants types, rules and defaults as package config has them.
func TestConfigFields(t *testing.T) {
	page := string(pages(t)["config.md"])
	for _, line := range []string{
		"- `name` (string; required): ",
		"  - `source` (string; must be external or files; default `external`): ",
		"  - `shutdownSendRetryAfter` (true or false; default `true`): ",
		"- `masterNode` (mapping; *local*): ",
		"  - `replicas` (number; required; must be 0 to 100): ",
		"  - `tokenReload` (duration; must be 1s to 24h; default `5m`): ",
		"  - `location` (string; default `global`): ",
		"default `Replace`, with `infrastructure` `Evict`",
		"- At the top: `advancedNetworking`, ",
		"- In `nodePools[]`: `autoscaling`, ",
	} {
		if !strings.Contains(strings.Join(strings.Fields(page), " "), strings.TrimSpace(line)) {
			t.Errorf("config.md does not have %q", line)
		}
	}
}

// TestUserCluster wants limits and rules of the definition, and names.
func TestUserCluster(t *testing.T) {
	page := strings.Join(strings.Fields(string(pages(t)["usercluster.md"])), " ")
	for _, text := range []string{
		"- `version` (integer; default `1`; at least 1): Version is the desired key version.",
		"- Rule: ksaSigningKey.issuer cannot be changed.",
		"- `nodePools` (list of objects by `name`; at most 32 entries)",
		"- `stepSince` (time)", "- `KSASigningKeyRotationBlocked` ", "- `keyturn.dev/break-glass` ",
	} {
		if !strings.Contains(page, text) {
			t.Errorf("usercluster.md does not have %q", text)
		}
	}
}

// described is a command with the names of its own flags.
type described struct {
	path  string
	flags []string
}

// allCommands lists what help texts offer, without package reference.
func allCommands(c *cobra.Command) (list []described) {
	d := described{path: c.CommandPath()}
	c.LocalFlags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			d.flags = append(d.flags, f.Name)
		}
	})
	list = append(list, d)
	for _, child := range c.Commands() {
		if child.IsAvailableCommand() {
			list = append(list, allCommands(child)...)
		}
	}
	return list
}

func TestWrap(t *testing.T) {
	p := &page{}
	words, long := strings.TrimSpace(strings.Repeat("word ", 23)), strings.Repeat("x", columns)
	p.item(1, words+" `a code span` "+long)
	want := "  - " + words + "\n    `a code span`\n    " + long + "\n"
	if diff := cmp.Diff(want, p.String()); diff != "" {
		t.Error(diff)
	}
}
