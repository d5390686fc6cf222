package lint

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"github.com/keyturn/keyturn/tools/docs/reference"
)

// commands finds command lines that do not work: in blocks of shell code, and in code spans, which may name a part
// only.
func commands(r *repository) ([]Fault, error) {
	k, err := r.known()
	if err != nil {
		return nil, err
	}
	return r.eachPage(func(p *page, fault func(int, string)) {
		for _, b := range p.blocks() {
			if !slices.Contains([]string{"", "sh", "bash", "shell", "console"}, b.language) {
				continue
			}
			lines, numbers := script(b)
			for i, line := range lines {
				k.check(line, true, func(text string) { fault(numbers[i], text) })
			}
		}
		p.spans(func(line int, code string) { k.check(code, false, func(text string) { fault(line, text) }) })
	}), nil
}

// known is what command lines may name, besides commands and their flags.
type known struct {
	// programs are the names of those with a reference, and targets those of make.
	programs, targets map[string]bool
	// scripts is the text in which variables of make are used.
	scripts string
	values  any
}

// check calls fault for what is wrong with a command line, which is whole or a part.
func (k *known) check(line string, whole bool, fault func(string)) {
	for _, words := range commandsIn(line) {
		switch name, args := words[0], words[1:]; {
		case name == "make":
			k.checkMake(args, fault)
		case name == "helm":
			k.checkHelm(args, fault)
		case k.programs[name]:
			checkCommand(name, args, whole, fault)
		case name == "kubectl":
			if flags, args, found := cutPlugin(args); found {
				checkCommand("kubectl-keyturn", append(args, flags...), whole, fault)
			}
		}
	}
}

// cutPlugin splits the arguments of kubectl where they name the plugin.
func cutPlugin(args []string) (before, after []string, found bool) {
	at := slices.Index(args, "keyturn")
	if at < 0 || slices.ContainsFunc(args[:at], func(a string) bool { return !strings.HasPrefix(a, "-") }) {
		return nil, nil, false
	}
	return args[:at], slices.Clone(args[at+1:]), true
}

// checkCommand checks the arguments of one of our programs. It sets flags, so it takes fresh commands each time.
func checkCommand(name string, args []string, whole bool, fault func(string)) {
	elided := len(args) > 1 && args[0] == "…"
	args = slices.DeleteFunc(slices.Clone(args), func(a string) bool { return a == "…" || a == "..." })
	for _, root := range reference.Programs() {
		if root.Name() != name {
			continue
		}
		root.InitDefaultHelpCmd()
		if elided {
			root = above(root, args[0])
		}
		c, rest, err := root.Find(args)
		if err != nil {
			fault(err.Error())
			return
		}
		c.InitDefaultHelpFlag()
		positional := checkFlags(c, rest, fault)
		switch {
		case c.HasAvailableSubCommands() && len(positional) > 0:
			if c.Name() != "help" && !variable.MatchString(positional[0]) {
				fault(fmt.Sprintf("there is no command %s %s", c.CommandPath(), positional[0]))
			}
		case whole && c.Runnable() && !c.HasAvailableSubCommands() && c.Name() != "help":
			if err := c.ValidateArgs(positional); err != nil {
				fault(fmt.Sprintf("%s: %v", c.CommandPath(), err))
			}
		}
	}
}

// above returns a command that has one with a name, for command lines that leave out what stands between.
func above(c *cobra.Command, name string) *cobra.Command {
	for _, child := range c.Commands() {
		if child.Name() == name {
			return c
		}
		if found := above(child, name); slices.ContainsFunc(found.Commands(), func(c *cobra.Command) bool {
			return c.Name() == name
		}) {
			return found
		}
	}
	return c
}

// variable is a word that stands for others.
var variable = regexp.MustCompile(`^<?[A-Z][A-Z0-9_]*>?$|[…$|*]`)

// checkFlags checks the flags among arguments, and returns the others.
func checkFlags(c *cobra.Command, args []string, fault func(string)) (positional []string) {
	for i := 0; i < len(args); i++ {
		if args[i] == "--" {
			return append(positional, args[i+1:]...)
		}
		if !strings.HasPrefix(args[i], "-") || args[i] == "-" {
			positional = append(positional, args[i])
			continue
		}
		name, value, given := strings.Cut(args[i], "=")
		flag := find(c, name)
		if flag == nil {
			fault(fmt.Sprintf("%s has no flag %s", c.CommandPath(), name))
			continue
		}
		switch {
		case given:
		case flag.NoOptDefVal != "":
			value = flag.NoOptDefVal
		case i+1 < len(args):
			i++
			value = args[i]
		default:
			continue // named without its value
		}
		if variable.MatchString(value) {
			continue
		}
		if err := flag.Value.Set(value); err != nil {
			fault(fmt.Sprintf("%s %s %s: %v", c.CommandPath(), name, value, err))
		}
	}
	return positional
}

// find returns a flag of a command, or of those above it, by its name or its letter.
func find(c *cobra.Command, name string) *pflag.Flag {
	if long, ok := strings.CutPrefix(name, "--"); ok {
		return c.Flag(long)
	}
	letter := name[1:]
	if len(letter) != 1 {
		return nil
	}
	if f := c.Flags().ShorthandLookup(letter); f != nil {
		return f
	}
	return c.InheritedFlags().ShorthandLookup(letter)
}

// known reads the Makefile, and the values of the chart.
func (r *repository) known() (*known, error) {
	makefile, err := r.read("Makefile")
	if err != nil {
		return nil, err
	}
	scripts, err := r.read("hack/*.sh", "hack/*/*.sh", "tools/*/build")
	if err != nil {
		return nil, err
	}
	values, err := r.read("deploy/charts/keyturn/values.yaml")
	if err != nil {
		return nil, err
	}
	k := &known{programs: map[string]bool{}, targets: map[string]bool{}, scripts: makefile + scripts}
	for _, c := range reference.Programs() {
		k.programs[c.Name()] = true
	}
	if err := yaml.Unmarshal([]byte(values), &k.values); err != nil {
		return nil, fmt.Errorf("reading the values of the chart: %w", err)
	}
	for line := range strings.SplitSeq(makefile, "\n") {
		targets, rest, found := strings.Cut(line, ":")
		if !found || strings.HasPrefix(line, "\t") || strings.HasPrefix(rest, "=") {
			continue
		}
		for target := range strings.FieldsSeq(strings.TrimSuffix(targets, " &")) {
			k.targets[target] = true
		}
	}
	return k, nil
}

func (k *known) checkMake(args []string, fault func(string)) {
	for _, a := range args {
		name, _, assigns := strings.Cut(a, "=")
		switch {
		case strings.HasPrefix(a, "-"), variable.MatchString(a):
		case assigns && !regexp.MustCompile(`\b`+regexp.QuoteMeta(name)+`\b`).MatchString(k.scripts):
			fault(fmt.Sprintf("make uses no variable %s", name))
		case !assigns && !k.targets[a]:
			fault(fmt.Sprintf("make has no target %s", a))
		}
	}
}

// checkHelm checks the values that a command sets, if it is about our chart.
func (k *known) checkHelm(args []string, fault func(string)) {
	if !slices.ContainsFunc(args, func(a string) bool { return strings.Contains(a, "keyturn") }) {
		return
	}
	for i, a := range args {
		flag, settings, given := strings.Cut(a, "=")
		if !strings.HasPrefix(flag, "--set") {
			continue
		}
		if !given && i+1 < len(args) {
			settings = args[i+1]
		}
		for setting := range strings.SplitSeq(settings, ",") {
			key, _, _ := strings.Cut(setting, "=")
			if !hasValue(k.values, strings.Split(key, ".")) {
				fault(fmt.Sprintf("the chart has no value %s", key))
			}
		}
	}
}

// hasValue reports whether the values of a chart have one at a path. Empty maps and lists may hold anything.
func hasValue(values any, path []string) bool {
	if len(path) == 0 {
		return true
	}
	name, _, indexed := strings.Cut(path[0], "[")
	all, ok := values.(map[string]any)
	if !ok {
		return false
	}
	value, there := all[name]
	if !there {
		return len(all) == 0
	}
	if _, list := value.([]any); indexed || list {
		return list
	}
	return hasValue(value, path[1:])
}
