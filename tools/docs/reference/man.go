package reference

import (
	"fmt"
	"strings"

	"github.com/cpuguy83/go-md2man/v2/md2man"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// exitCodes is the help topic about them.
const exitCodes = "exit-codes"

// Man returns the man pages of all programs, one for each command, by the names of their files. They have no date, so
// that a release is the same whenever it is made.
func Man() map[string][]byte {
	pages := map[string][]byte{}
	for _, root := range Programs() {
		for _, c := range all(root) {
			if !c.IsAdditionalHelpTopicCommand() {
				pages[manName(c)+"."+section(root)] = md2man.Render(manPage(c))
			}
		}
	}
	return pages
}

// manName is the name of the man page of a command, such as gkectl-create-admin.
func manName(c *cobra.Command) string { return strings.ReplaceAll(c.CommandPath(), " ", "-") }

// manPage is the man page of a command as md2man reads it.
func manPage(c *cobra.Command) []byte {
	p := &page{}
	// The name of the command would leave no room between the corners of the first line.
	fmt.Fprintf(p, "%% %q %q \"\" \"Keyturn\" \"Keyturn\"\n", strings.ToUpper(c.Root().Name()), section(c.Root()))
	p.heading(1, "NAME")
	p.text(manName(c) + " - " + escape(c.Short))
	p.heading(1, "SYNOPSIS")
	p.text("**" + escape(usage(c)) + "**")
	p.heading(1, "DESCRIPTION")
	p.description(c)
	if c.HasAvailableSubCommands() {
		p.heading(1, "COMMANDS")
		for _, child := range c.Commands() {
			if child.IsAvailableCommand() {
				p.definition("**"+child.Name()+"**", child.Short)
			}
		}
	}
	p.manFlags("OPTIONS", c.LocalFlags())
	p.manFlags("OPTIONS OF ALL COMMANDS", c.InheritedFlags())
	if c.Example != "" {
		p.heading(1, "EXAMPLES")
		p.code("", unindent(c.Example))
	}
	for _, topic := range c.Root().Commands() {
		if topic.Name() == exitCodes {
			p.heading(1, "EXIT STATUS")
			p.description(topic)
		}
	}
	p.seeAlso(c)
	return p.Bytes()
}

// definition writes an entry of a list of definitions.
func (p *page) definition(term, text string) {
	fmt.Fprintf(p, "%s\n: %s\n\n", term, escape(strings.Join(strings.Fields(text), " ")))
}

func (p *page) manFlags(title string, set *pflag.FlagSet) {
	if !set.HasAvailableFlags() {
		return
	}
	p.heading(1, title)
	set.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Deprecated != "" {
			return
		}
		value, text := pflag.UnquoteUsage(f)
		term := "**--" + f.Name + "**"
		if f.Shorthand != "" {
			term = "**-" + f.Shorthand + "**, " + term
		}
		if value != "" {
			term += " *" + placeholder(value) + "*"
		}
		p.definition(term, text+byDefault(f))
	})
}

// seeAlso names the man pages of the commands above and below.
func (p *page) seeAlso(c *cobra.Command) {
	var related []string
	if c.HasParent() {
		related = append(related, "**"+manName(c.Parent())+"**("+section(c.Root())+")")
	}
	for _, child := range c.Commands() {
		if child.IsAvailableCommand() {
			related = append(related, "**"+manName(child)+"**("+section(c.Root())+")")
		}
	}
	if len(related) > 0 {
		p.heading(1, "SEE ALSO")
		p.text(strings.Join(related, ", "))
	}
}
