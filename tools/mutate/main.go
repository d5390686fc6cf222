// Command mutate plants faults in packages, one at a time, and counts those that the tests of the package notice.
//
//	mutate [-accepted FILE] [-only REGEXP] PACKAGE…
//
// Standard output is a Markdown table with a row for each package, and below it the faults that no test noticed. The
// list of accepted faults holds those that need not be noticed, each with its reason: see readAccepted.
//
// A package is compiled once, with all its faults in it. So no fault is counted that does not compile. Each test runs
// once without a fault. Then each fault is tried with the tests that reached it, the quickest first, until one notices.
// A test that runs for more than ten times as long as without a fault, and more than a minute, has noticed it.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"syscall"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "mutate:", err)
		os.Exit(1)
	}
}

func run() error {
	file := flag.String("accepted", "", "list of the faults that need not be noticed")
	pattern := flag.String("only", "", "regular expression that matches the faults to try, as they are reported")
	flag.Parse()
	accepted, err := readAccepted(*file)
	if err != nil {
		return err
	}
	only, err := regexp.Compile(*pattern)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := adoptOrphans(); err != nil {
		return err
	}
	var results []result
	for _, path := range flag.Args() {
		r, err := measure(ctx, path, accepted, only)
		if err != nil {
			return fmt.Errorf("mutating %s: %w", path, err)
		}
		results = append(results, r)
	}
	report(os.Stdout, results)
	return nil
}

// measure tries each fault of a package that only matches.
func measure(ctx context.Context, path string, accepted accepted, only *regexp.Regexp) (result, error) {
	p, err := load(ctx, path)
	if err != nil {
		return result{}, err
	}
	binary, err := compile(ctx, p)
	if err != nil {
		return result{}, err
	}
	defer binary.remove()
	reached, err := binary.baseline(ctx)
	if err != nil {
		return result{}, err
	}
	r := result{name: p.name}
	p.mutants = slices.DeleteFunc(p.mutants, func(m mutant) bool { return !only.MatchString(m.mark()) })
	for i, m := range p.mutants {
		outcome := notReached
		if tests := reached[m.id]; len(tests) > 0 {
			if outcome, err = binary.try(ctx, m, tests); err != nil {
				return result{}, err
			}
		}
		if outcome != killed && accepted.take(m) {
			outcome = notMattering
		}
		r.add(m, outcome)
		fmt.Fprintf(os.Stderr, "%s %d/%d line %d, %s: %s\n", p.name, i+1, len(p.mutants), m.line, m.mark(), outcome)
	}
	for _, file := range p.names {
		r.unused = append(r.unused, accepted.unused(file, only)...)
	}
	return r, nil
}
