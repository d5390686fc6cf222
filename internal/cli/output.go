package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/duration"
	"sigs.k8s.io/yaml"
)

// output is the value of --output; the first allowed form is the default.
type output struct {
	form    string
	allowed []string
}

func outputFlag(cmd *cobra.Command, o *output, forms ...string) {
	o.form, o.allowed = forms[0], forms
	cmd.Flags().VarP(o, "output", "o", "how to write it: "+strings.Join(forms, ", "))
	must(cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(forms, cobra.ShellCompDirectiveNoFileComp)))
}

// String, Set and Type are pflag.Value.
func (o *output) String() string { return o.form }

// Set takes one of the allowed forms.
func (o *output) Set(form string) error {
	if !slices.Contains(o.allowed, form) {
		return fmt.Errorf("must be %s", strings.Join(o.allowed, ", "))
	}
	o.form = form
	return nil
}

// Type returns the placeholder for a value in help texts.
func (o *output) Type() string { return "form" }

// write writes data as JSON or YAML, or calls text to write it for people.
func (o *output) write(w io.Writer, data any, text func(io.Writer) error) error {
	var out []byte
	var err error
	switch o.form {
	case "json":
		out, err = json.MarshalIndent(data, "", "  ")
		out = append(out, '\n')
	case "yaml":
		out, err = yaml.Marshal(data)
	default:
		return text(w)
	}
	if err != nil {
		return fmt.Errorf("writing as %s: %w", o.form, err)
	}
	_, err = w.Write(out)
	return err
}

// table writes rows in columns, indented.
func table(w io.Writer, indent string, rows ...[]string) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(t, indent+strings.TrimRight(strings.Join(row, "\t"), "\t"))
	}
	return t.Flush()
}

// withoutFirst returns rows without their first column.
func withoutFirst(rows [][]string) [][]string {
	rest := make([][]string, len(rows))
	for i, row := range rows {
		rest[i] = row[1:]
	}
	return rest
}

// age returns the time since t, such as "5m"; "-" if t is unknown.
func (a *app) age(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return duration.HumanDuration(a.Now().Sub(t))
}
