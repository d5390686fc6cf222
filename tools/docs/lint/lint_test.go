package lint

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden file")

// TestFaults wants each fault of a small repository to be found, in its line, and nothing else.
func TestFaults(t *testing.T) {
	const golden = "testdata/faults.golden"
	faults, err := Check(filepath.Join("testdata", "faults"), Rules())
	if err != nil {
		t.Fatal(err)
	}
	var lines strings.Builder
	of := map[string]bool{}
	for _, f := range faults {
		lines.WriteString(f.String() + "\n")
		of[f.Rule] = true
	}
	for _, r := range Rules() {
		if !of[r.Name] {
			t.Errorf("no fault of rule %s", r.Name)
		}
	}
	if *update {
		if err := os.WriteFile(golden, []byte(lines.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), lines.String()); diff != "" {
		t.Error(diff)
	}
}

// TestClean wants no fault where there is none.
func TestClean(t *testing.T) {
	faults, err := Check(filepath.Join("testdata", "clean"), Rules())
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range faults {
		t.Error(f)
	}
}

func TestWithout(t *testing.T) {
	rules, err := Without(Rules(), []string{"columns", "links"})
	if err != nil {
		t.Fatal(err)
	}
	faults, err := Check(filepath.Join("testdata", "faults"), rules)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range faults {
		if f.Rule == "columns" || f.Rule == "links" {
			t.Errorf("checked, although left out: %s", f)
		}
	}
	if len(rules) != len(Rules())-2 {
		t.Errorf("%d rules are left", len(rules))
	}
	if _, err := Without(Rules(), []string{"none"}); err == nil {
		t.Error("a rule that does not exist is left out")
	}
}

func TestCommandsIn(t *testing.T) {
	for line, want := range map[string][][]string{
		``:                                   nil,
		`# a comment`:                        nil,
		`a b  c`:                             {{"a", "b", "c"}},
		`$ a 'b c' "d\" e" f\ g h#i # j`:     {{"a", "b c", `d" e`, "f g", "h#i"}},
		`a | b && c; d || e &`:               {{"a"}, {"b"}, {"c"}, {"d"}, {"e"}},
		`X=1 sudo /usr/bin/a -b=c`:           {{"a", "-b=c"}},
		`a [--b] [-c d|e] [NAME] [f [-g]] h`: {{"a", "--b", "-c", "d|e", "h"}},
		`a > b 2>&1 < c d`:                   {{"a", "d"}},
		`for x in 1 2; do a $x; done`:        {{"for", "x", "in", "1", "2"}, {"a", "$x"}, {"done"}},
		`x=$(a b) c`:                         {{"a", "b"}, {"c"}},
		`a ──► b`:                            {{"a"}, {"b"}},
		`if ! a; then b; fi`:                 {{"a"}, {"b"}, {"fi"}},
	} {
		if diff := cmp.Diff(want, commandsIn(line)); diff != "" {
			t.Errorf("%s: %s", line, diff)
		}
	}
}

func TestAnchorOf(t *testing.T) {
	for heading, want := range map[string]string{
		"What do I have to do?": "what-do-i-have-to-do",
		"spec.a[].b, c_d":       "specab-c_d",
		"Über 2 – Ende":         "über-2--ende",
	} {
		if got := anchorOf(heading); got != want {
			t.Errorf("%s: #%s, want #%s", heading, got, want)
		}
	}
}

// TestPhrases wants every pattern to be one, and to have something to write instead.
func TestPhrases(t *testing.T) {
	for _, kind := range []string{"md", "go"} {
		list, err := phrasesOf(kind)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range list {
			if p.instead == "" || p.MatchString("") {
				t.Errorf("%s: matches nothing, or there is nothing to write", p)
			}
		}
	}
}
