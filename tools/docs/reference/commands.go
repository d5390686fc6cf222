package reference

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// commandPages makes a page of each program, with all of its commands.
func commandPages() map[string][]byte {
	pages := map[string][]byte{}
	for _, root := range Programs() {
		p := newPage(root.DisplayName())
		p.text(escape(root.Short) + ".")
		for _, c := range all(root) {
			p.command(c)
		}
		pages[root.Name()+".md"] = p.Bytes()
	}
	return pages
}

// all returns a command and those below it that are for people, in the order of help texts.
func all(c *cobra.Command) []*cobra.Command {
	list := []*cobra.Command{c}
	for _, child := range c.Commands() {
		if child.IsAvailableCommand() || child.IsAdditionalHelpTopicCommand() {
			list = append(list, all(child)...)
		}
	}
	return list
}

// command writes the section of a command.
func (p *page) command(c *cobra.Command) {
	p.heading(2, c.CommandPath())
	p.description(c)
	if c.IsAdditionalHelpTopicCommand() {
		return
	}
	p.code("", usage(c))
	if c.HasAvailableSubCommands() {
		for _, child := range c.Commands() {
			if child.IsAvailableCommand() {
				p.item(0, code(child.Name())+": "+escape(child.Short))
			}
		}
		p.WriteByte('\n')
	}
	if c.Example != "" {
		p.text("Examples:")
		p.code("sh", unindent(c.Example))
	}
	p.flags("Flags:", c.LocalFlags())
	if c.HasParent() && c.HasAvailableInheritedFlags() {
		p.text(fmt.Sprintf("The flags of `%s` too.", c.Root().CommandPath()))
	}
}

// description writes the long text of a command. Its indented paragraphs are code.
func (p *page) description(c *cobra.Command) {
	for paragraph := range strings.SplitSeq(long(c), "\n\n") {
		if strings.HasPrefix(paragraph, "  ") || strings.HasPrefix(paragraph, "\t") {
			p.code("text", unindent(paragraph))
		} else {
			p.text(escape(paragraph))
		}
	}
}

// long is the description of a command, a sentence at least.
func long(c *cobra.Command) string {
	if c.Long != "" {
		return strings.TrimSpace(c.Long)
	}
	return c.Short + "."
}

// usage is the command line of a command.
func usage(c *cobra.Command) string {
	line := strings.TrimSuffix(c.UseLine(), " [flags]")
	if _, alone := c.Annotations[runsAlone]; c.HasAvailableSubCommands() && !alone {
		line += " COMMAND"
	}
	if c.HasAvailableFlags() && !strings.Contains(line, " [flags]") {
		line += " [flags]"
	}
	return line
}

// flags writes a list of flags.
func (p *page) flags(title string, set *pflag.FlagSet) {
	if !set.HasAvailableFlags() {
		return
	}
	p.text(title)
	set.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Deprecated != "" {
			return
		}
		value, text := pflag.UnquoteUsage(f)
		p.item(0, code(names(f, value))+": "+escape(text)+byDefault(f))
	})
	p.WriteByte('\n')
}

// names is how a flag is written.
func names(f *pflag.Flag, value string) string {
	name := "--" + f.Name
	if f.Shorthand != "" {
		name = "-" + f.Shorthand + ", " + name
	}
	if value != "" {
		name += " " + placeholder(value)
	}
	return name
}

// placeholder stands for the value of a flag. Flags that can be given several times have one each time.
func placeholder(value string) string { return strings.ToUpper(strings.TrimSuffix(value, "Array")) }

// byDefault is the value of a flag that nobody gives, if that is worth a word.
func byDefault(f *pflag.Flag) string {
	switch f.DefValue {
	case "", "false", "0", "0s", "[]":
		return ""
	}
	return " (default " + code(f.DefValue) + ")"
}

// unindent takes away the indentation of lines of help texts: two blanks, or a tab in those of cobra.
func unindent(text string) string {
	lines := strings.Split(text, "\n")
	for i, l := range lines {
		lines[i] = strings.TrimPrefix(strings.TrimPrefix(l, "\t"), "  ")
	}
	return strings.Join(lines, "\n")
}
