package lint

import (
	"path"
	"strings"
)

// shell reads command lines as documentation has them: words and quotes as in a shell, and the notation of help texts,
// such as [--flag] and a|b within brackets.
type shell struct {
	commands [][]string
	words    []string
	word     strings.Builder
	inWord   bool
	// brackets has, for each bracket that is open, how many words there were before.
	brackets []int
}

// commandsIn returns the simple commands of a command line, each as its words.
func commandsIn(line string) [][]string {
	s := &shell{}
	runes := []rune(line)
	for i := 0; i < len(runes); i++ {
		switch c := runes[i]; {
		case c == '\'' || c == '"':
			i = s.quoted(runes, i)
		case c == '\\' && i+1 < len(runes):
			i++
			s.put(runes[i])
		case c == '#' && !s.inWord:
			i = len(runes)
		case c == '[' && !s.inWord:
			s.brackets = append(s.brackets, len(s.words))
		case c == ']' && len(s.brackets) > 0:
			s.endBracket()
		case c == ' ' || c == '\t':
			s.endWord()
		case c == '|' && len(s.brackets) > 0:
			s.put(c)
		case strings.ContainsRune("|&;(){}`", c), strings.ContainsRune("─│┌└├►▲◄▼→", c):
			s.endCommand()
		case c == '<' || c == '>':
			i = s.redirected(runes, i)
		default:
			s.put(c)
		}
	}
	s.endCommand()
	return s.commands
}

func (s *shell) put(c rune) {
	s.word.WriteRune(c)
	s.inWord = true
}

// quoted puts what is in quotes, which begin at i, and returns where they end.
func (s *shell) quoted(runes []rune, i int) int {
	quote := runes[i]
	s.inWord = true
	for i++; i < len(runes) && runes[i] != quote; i++ {
		if runes[i] == '\\' && quote == '"' && i+1 < len(runes) {
			i++
		}
		s.put(runes[i])
	}
	return i
}

// redirected skips the file of a redirection that begins at i, and the number of the stream before it.
func (s *shell) redirected(runes []rune, i int) int {
	if strings.Trim(s.word.String(), "0123456789") == "" {
		s.word.Reset()
		s.inWord = false
	}
	s.endWord()
	for i+1 < len(runes) && strings.ContainsRune("<>& ", runes[i+1]) {
		i++
	}
	for i+1 < len(runes) && !strings.ContainsRune(" |&;)", runes[i+1]) {
		i++
	}
	return i
}

func (s *shell) endWord() {
	if s.inWord {
		s.words = append(s.words, s.word.String())
	}
	s.word.Reset()
	s.inWord = false
}

// endBracket drops what was in brackets, unless it is a flag: [NAME] stands for something.
func (s *shell) endBracket() {
	s.endWord()
	last := len(s.brackets) - 1
	if first := s.brackets[last]; first < len(s.words) && !strings.HasPrefix(s.words[first], "-") {
		s.words = s.words[:first]
	}
	s.brackets = s.brackets[:last]
}

func (s *shell) endCommand() {
	s.endWord()
	s.brackets = nil
	if words := withoutPrefix(s.words); len(words) > 0 {
		s.commands = append(s.commands, words)
	}
	s.words = nil
}

// withoutPrefix takes away what stands before the name of a program, and the directory of that.
func withoutPrefix(words []string) []string {
	for len(words) > 0 {
		name, _, assigns := strings.Cut(words[0], "=")
		switch words[0] {
		case "$", "!", "do", "else", "exec", "if", "nohup", "sudo", "then", "time", "until", "while":
		default:
			if !assigns || strings.HasPrefix(name, "-") {
				words[0] = path.Base(words[0])
				return words
			}
		}
		words = words[1:]
	}
	return nil
}

// script returns the command lines of a block of code: those after prompts, if it has prompts, and otherwise all. Each
// comes with the number of its line; one that ends with a backslash is joined with the next.
func script(b block) (lines []string, numbers []int) {
	prompts := false
	for _, l := range b.lines {
		prompts = prompts || strings.HasPrefix(l, "$ ")
	}
	joined, start := "", 0
	for i, l := range b.lines {
		text, prompt := strings.CutPrefix(l, "$ ")
		if joined == "" {
			if prompts && !prompt {
				continue
			}
			start = b.line + i
		}
		if rest, more := strings.CutSuffix(text, `\`); more {
			joined += rest
			continue
		}
		lines, numbers = append(lines, joined+text), append(numbers, start)
		joined = ""
	}
	return lines, numbers
}
