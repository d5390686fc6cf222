// Package remnants counts copies of a private key in the memory of a process, for tests and measurements. It must run
// as the user of the process, or as root: it reads /proc/PID/mem.
package remnants

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// Forms are the byte strings that a private key has in memory, by name.
type Forms map[string][]byte

// The forms.
const (
	// Number is the secret number in big-endian form, as in DER and most libraries.
	Number = "number"
	// Words is the same number in the form of math/big on little-endian machines.
	Words = "words"
	// Text is base64 of DER, as in PEM.
	Text = "text"
)

// base64 of PEM, as in JSON of a Secret, at each of three alignments.
var texts = []string{Text + " in JSON, 0", Text + " in JSON, 1", Text + " in JSON, 2"}

// FormsOf returns the forms of a private key. None is a part of another one or of the public key.
func FormsOf(private crypto.Signer) (Forms, error) {
	number, err := secret(private)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, fmt.Errorf("encoding a private key: %w", err)
	}
	text := []byte(line(base64.StdEncoding.EncodeToString(der)))
	words := slices.Clone(number)
	slices.Reverse(words)
	forms := Forms{Number: number, Words: words, Text: text}
	for skip, name := range texts {
		// Characters at both ends depend on what is around them.
		forms[name] = []byte(base64.StdEncoding.EncodeToString(text[skip : skip+(len(text)-skip)/3*3]))
	}
	return forms, nil
}

// line returns the second line of PEM, which is within the private key for each algorithm of Keyturn.
func line(text string) string {
	const width = 64
	return text[width : 2*width]
}

// secret returns the number that defines the key: one prime for RSA.
func secret(private crypto.Signer) ([]byte, error) {
	switch k := private.(type) {
	case *ecdsa.PrivateKey:
		return k.Bytes()
	case *rsa.PrivateKey:
		return k.Primes[0].Bytes(), nil
	}
	return nil, fmt.Errorf("a private key of type %T is not known", private)
}

// Counts are how often each form was found.
type Counts map[string]int

// Total returns the sum.
func (c Counts) Total() (n int) {
	for _, count := range c {
		n += count
	}
	return n
}

// String lists what was found.
func (c Counts) String() string {
	var all []string
	for _, name := range slices.Concat([]string{Number, Words, Text}, texts) {
		if c[name] > 0 {
			all = append(all, fmt.Sprintf("%s: %d", name, c[name]))
		}
	}
	return fmt.Sprintf("%d (%s)", c.Total(), strings.Join(all, ", "))
}

// Count searches all writable memory of a process. It may miss memory that is mapped or unmapped meanwhile.
func Count(pid int, forms Forms) (Counts, error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return nil, fmt.Errorf("reading the memory of process %d: %w", pid, err)
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		return nil, fmt.Errorf("reading the memory of process %d: %w", pid, err)
	}
	defer mem.Close()
	counts, some := Counts{}, false
	for area := range strings.Lines(string(maps)) {
		var from, to int64
		var mode string
		if _, err := fmt.Sscanf(area, "%x-%x %s", &from, &to, &mode); err != nil || !strings.HasPrefix(mode, "rw") {
			continue
		}
		some = count(mem, from, to, forms, counts) || some
	}
	if !some {
		return nil, fmt.Errorf("reading the memory of process %d: %w", pid, errors.New("none of it can be read"))
	}
	return counts, nil
}

// chunk is how many bytes are read at once.
const chunk = 4 << 20

// count searches an area. An area that cannot be read counts as empty.
func count(mem io.ReaderAt, from, to int64, forms Forms, counts Counts) (some bool) {
	longest := 0
	for _, form := range forms {
		longest = max(longest, len(form))
	}
	buffer := make([]byte, chunk)
	for at := from; at < to; at += chunk - int64(longest) {
		n, _ := mem.ReadAt(buffer[:min(chunk, to-at)], at)
		some = some || n > 0
		for name, form := range forms {
			// A match that begins in the overlap is counted with the next chunk.
			end := min(n, chunk-longest+len(form)-1)
			counts[name] += bytes.Count(buffer[:end], form)
		}
	}
	clear(buffer)
	return some
}
