package signercmd

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"time"

	"github.com/keyturn/keyturn/signer/ledger"
)

// LedgerCommand is the name of the subcommand that Ledger runs.
const LedgerCommand = "ledger"

// LedgerFlags returns the flags of the subcommand, for its reference.
func LedgerFlags() *flag.FlagSet { return ledgerFlags(new(string)) }

func ledgerFlags(path *string) *flag.FlagSet {
	set := flag.NewFlagSet("keyturn-signer "+LedgerCommand, flag.ContinueOnError)
	set.StringVar(path, "ledger-file", "",
		"`file` of the ledger of a signer: its --ledger-file, or ledger beside its socket; required")
	return set
}

// Ledger writes the ledger of a signer to stdout, as a ledger.Report in JSON, and returns the exit code of the process.
// The signer need not be running.
func Ledger(args []string, stdout, stderr io.Writer) int {
	var path string
	set := ledgerFlags(&path)
	set.SetOutput(stderr)
	err := set.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2 // set has printed why
	case path == "" || set.NArg() > 0:
		_, _ = fmt.Fprintf(stderr, "Error: --ledger-file is needed, and nothing else\n")
		return 2
	}
	report, err := ledger.Read(path, time.Now())
	if err == nil {
		err = json.NewEncoder(stdout).Encode(report)
	}
	if err != nil {
		_, _ = fmt.Fprintf(stderr, "Error: %v\n", err)
		return 1
	}
	return 0
}
