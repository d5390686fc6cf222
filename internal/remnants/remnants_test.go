package remnants

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"maps"
	"os"
	"runtime"
	"testing"

	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/token"
)

// TestForms finds each form in the encodings that it is of, exactly once.
func TestForms(t *testing.T) {
	for _, algorithm := range []string{jwks.ES256, jwks.ES384, jwks.RS256} {
		t.Run(algorithm, func(t *testing.T) {
			private, err := token.GenerateKey(rand.Reader, algorithm)
			if err != nil {
				t.Fatal(err)
			}
			forms, err := FormsOf(private)
			if err != nil {
				t.Fatal(err)
			}
			pem, err := token.MarshalPrivateKey(private)
			if err != nil {
				t.Fatal(err)
			}
			public, err := jwks.MarshalPublicKey(private.Public())
			if err != nil {
				t.Fatal(err)
			}
			found := 0
			for _, name := range texts {
				found += bytes.Count([]byte(base64.StdEncoding.EncodeToString(pem)), forms[name])
			}
			if n := bytes.Count(pem, forms[Text]); n != 1 || found != 1 {
				t.Errorf("in PEM %d times, in its base64 %d times, want once", n, found)
			}
			for name, form := range forms {
				if len(form) < 32 || bytes.Contains(public, form) {
					t.Errorf("%s has %d bytes, or is in the public key", name, len(form))
				}
			}
		})
	}
}

// TestCount counts copies at the ends of an area, and around the ends of the chunks in which it is read.
func TestCount(t *testing.T) {
	forms := Forms{Number: bytes.Repeat([]byte{1, 2}, 16), Text: bytes.Repeat([]byte("ab"), 32)}
	longest := len(forms[Text])
	big := make([]byte, 3*chunk)
	const from = 1000
	for _, at := range []int{from, chunk - 100, chunk + from - 2*longest, 2*chunk + from - 3*longest, len(big) - longest} {
		copy(big[at:], forms[Text])
	}
	for _, at := range []int{from + longest, chunk + from - longest, 2*chunk + from - longest} {
		copy(big[at:], forms[Number])
	}
	copy(big[from-1:], forms[Number][:1]) // outside
	counts := Counts{}
	if !count(bytes.NewReader(big), from, int64(len(big)), forms, counts) {
		t.Error("nothing was read")
	}
	if want := (Counts{Number: 3, Text: 5}); !maps.Equal(counts, want) {
		t.Errorf("%v, want %v", counts, want)
	}
	if got, want := counts.String(), "8 (number: 3, text: 5)"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if count(bytes.NewReader(nil), from, from+10, forms, counts) {
		t.Error("nothing can be read, and something was")
	}
}

// TestCountOfProcess finds what this process itself holds.
func TestCountOfProcess(t *testing.T) {
	held := bytes.Repeat([]byte{3, 5, 7, 11}, 16)
	counts, err := Count(os.Getpid(), Forms{Text: held})
	if err != nil {
		t.Fatal(err)
	}
	if counts[Text] == 0 {
		t.Error("a buffer of this process is not found in its memory")
	}
	runtime.KeepAlive(held)
	if _, err := Count(1<<30, nil); err == nil {
		t.Error("the memory of no process was read")
	}
}
