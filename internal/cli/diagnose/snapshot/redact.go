package snapshot

import (
	"regexp"
	"strings"
	"unicode"
)

// Redacted is what stands for a text that was taken out.
const Redacted = "[redacted]"

// The texts that are taken out.
var (
	// pemBlock is a PEM block of any kind, its lines as they are or quoted; without its end it goes to the end of the
	// text.
	pemBlock = regexp.MustCompile(`(?s)-----BEGIN [A-Z0-9 ]+-----.*?(?:-----END [A-Z0-9 ]+-----|$)`)
	jwt      = regexp.MustCompile(`eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*\.?[A-Za-z0-9_-]*`)
	header   = regexp.MustCompile(`(?i)\b(bearer|authorization:\s*\w+)\s+[A-Za-z0-9._~+/=-]{8,}`)
	password = regexp.MustCompile(`(?i)\b(password|passwd|secret|token|api_?key)("\s*:\s*"|=["']?)[^\s"',;&]{8,}`)
	// digest is not secret: an image, or a file.
	digest = regexp.MustCompile(`\bsha256:[0-9a-f]{64}\b`)
	// run is a run of characters that base64, base64url and hex have.
	run = regexp.MustCompile(`[A-Za-z0-9+/_=-]{32,}`)
	// numbers are bytes as Go and JSON write them in decimal.
	numbers = regexp.MustCompile(`(?:\b\d{1,3}\b[,\s]+){15,}\d{1,3}\b`)
	// big is a number that only a key has: of 40 digits or more.
	big = regexp.MustCompile(`\d{40,}`)
)

// Redact takes out of a text what could be a private key, a token or a password. keep are long texts that are none,
// such as the kids of keys.
func Redact(text string, keep map[string]bool) string {
	text = pemBlock.ReplaceAllString(text, Redacted)
	text = jwt.ReplaceAllString(text, Redacted)
	text = header.ReplaceAllString(text, "$1 "+Redacted)
	text = password.ReplaceAllString(text, "$1$2"+Redacted)
	text = numbers.ReplaceAllString(text, Redacted)
	return redactRuns(text, keep)
}

// redactRuns takes out the runs that look random, but for digests.
func redactRuns(text string, keep map[string]bool) string {
	var b strings.Builder
	rest := 0
	for _, at := range digest.FindAllStringIndex(text, -1) {
		b.WriteString(redactAll(text[rest:at[0]], keep))
		b.WriteString(text[at[0]:at[1]])
		rest = at[1]
	}
	b.WriteString(redactAll(text[rest:], keep))
	return b.String()
}

func redactAll(text string, keep map[string]bool) string {
	text = run.ReplaceAllStringFunc(text, func(s string) string {
		if keep[s] || !random(s) {
			return s
		}
		return Redacted
	})
	return big.ReplaceAllString(text, Redacted)
}

// random reports whether a run could hold a key: hex digits alone, or letters of both cases as base64 has them. Names
// of objects and paths of URLs are in lower case; words of CamelCase are shorter.
func random(s string) bool {
	hex := 0
	for _, part := range strings.FieldsFunc(s, func(r rune) bool {
		return !strings.ContainsRune("0123456789abcdefABCDEF",
			r)
	}) {
		hex = max(hex, len(part))
	}
	const commit = 40 // the ids of commits have so many, and no key has
	if hex >= 32 && hex != commit {
		return true
	}
	upper, lower := strings.ContainsFunc(s, unicode.IsUpper), strings.ContainsFunc(s, unicode.IsLower)
	return len(s) >= 40 && upper && lower
}

// maxPEM is more lines than the PEM of any key has.
const maxPEM = 200

// redactLines redacts each line of a text. A PEM block in a log may have a time before each of its lines: those between
// its first line and its last one are left out.
func redactLines(text string, keep map[string]bool) string {
	var b strings.Builder
	within := 0 // how many more lines can be of a block
	for line := range strings.Lines(text) {
		begins, ends := strings.LastIndex(line, "-----BEGIN "), strings.LastIndex(line, "-----END ")
		switch {
		case begins > ends:
			within = maxPEM
		case ends >= 0 && within > 0:
			within, line = 0, Redacted
		case within > 0:
			within--
			continue
		}
		b.WriteString(Redact(strings.TrimSuffix(line, "\n"), keep) + "\n")
	}
	return b.String()
}
