package keydir_test

import (
	"crypto/rand"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"time"

	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/signer/keydir"
	"github.com/keyturn/keyturn/token"
)

// This example writes the key directory of a rotation: key version 1 signs, and tokens of version 2 are accepted
// already.
func ExampleWrite() {
	parent, err := os.MkdirTemp("", "keydir")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(parent)
	dir := filepath.Join(parent, "keys")

	set := keydir.Set{
		SigningVersion:      1,
		RefreshHint:         time.Hour,
		RotationRefreshHint: keydir.DefaultRotationRefreshHint,
		MaxTokenExpiration:  24 * time.Hour,
	}
	for version := 1; version <= 2; version++ {
		private, err := token.GenerateKey(rand.Reader, jwks.ES256)
		if err != nil {
			log.Fatal(err)
		}
		key, err := keydir.NewKey(version, private)
		if err != nil {
			log.Fatal(err)
		}
		set.Keys = append(set.Keys, key)
	}
	if err := keydir.Write(dir, set); err != nil {
		log.Fatal(err)
	}

	read, _, err := keydir.Read(dir)
	if err != nil {
		log.Fatal(err)
	}
	defer read.Wipe()
	for _, key := range read.Keys {
		fmt.Println("key version", key.Version, "signs:", key.Version == read.SigningVersion, "private key:", key.Private)
	}
	// Output:
	// key version 1 signs: true private key: [secret]
	// key version 2 signs: false private key: [secret]
}
