package main

import (
	"bytes"
	"flag"
	"os"
	"regexp"
	"testing"
)

var update = flag.Bool("update", false, "write testdata/till.md")

// The report of a package that has every kind of fault, with some that no test notices.
func TestReport(t *testing.T) {
	const golden = "testdata/till.md"
	list := t.TempDir() + "/accepted.md"
	accept := "- `testdata/till/till.go` Close, condition never true: `true`: nobody calls it.\n" +
		"- `testdata/till/till.go` check, zero returned: `nil`: there is no such mutant.\n"
	if err := os.WriteFile(list, []byte(accept), 0o600); err != nil {
		t.Fatal(err)
	}
	accepted, err := readAccepted(list)
	if err != nil {
		t.Fatal(err)
	}
	r, err := measure(t.Context(), "./testdata/till", accepted, regexp.MustCompile(""))
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	report(&got, []result{r})
	if *update {
		if err := os.WriteFile(golden, got.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Errorf("the report is not that of %s; run this test with -update and compare:\n%s", golden, &got)
	}
}

// Edits of one offset nest: what began last ends first.
func TestApplyNests(t *testing.T) {
	edits := []edit{
		{offset: 0, text: "(", number: 1}, {offset: 3, text: ")", number: 1, closing: true},
		{offset: 0, text: "[", number: 2}, {offset: 1, text: "]", number: 2, closing: true},
		{offset: 2, text: "{", number: 3}, {offset: 3, text: "}", number: 3, closing: true},
		{offset: 1, length: 1, text: ","},
	}
	if got := string(apply([]byte("a+b."), edits)); got != "([a],{b})." {
		t.Errorf("apply = %s", got)
	}
}
