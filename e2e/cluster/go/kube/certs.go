package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"flag"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const validFor = 10 * 365 * 24 * time.Hour

// A leaf is one certificate that a component shows, as a client, a server or both.
type leaf struct {
	file, authority    string
	name, organization string
	dns                []string
	ips                []net.IP
}

type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// runCerts writes what the components need to trust each other into a directory:
// three authorities (cluster, etcd, front proxy), the leaves below, and the key that signs service account tokens.
// https://kubernetes.io/docs/setup/best-practices/certificates/ says which is for what.
func runCerts() {
	flags := flag.NewFlagSet("certs", flag.ExitOnError)
	dir := flags.String("dir", "", "directory to write to; it must exist")
	node := flags.String("node", "node", "name of the node")
	ips := flags.String("ips", "127.0.0.1", "addresses that servers are reached at, separated by commas")
	if err := flags.Parse(os.Args[1:]); err != nil || *dir == "" {
		flags.Usage()
		os.Exit(2)
	}
	if err := writeCerts(*dir, *node, parseIPs(*ips)); err != nil {
		fmt.Fprintln(os.Stderr, "certs:", err)
		os.Exit(1)
	}
}

func parseIPs(list string) []net.IP {
	var ips []net.IP
	for _, text := range strings.Split(list, ",") {
		ip := net.ParseIP(text)
		if ip == nil {
			fmt.Fprintf(os.Stderr, "certs: --ips: %q is not an address\n", text)
			os.Exit(2)
		}
		ips = append(ips, ip)
	}
	return ips
}

func writeCerts(dir, node string, ips []net.IP) error {
	authorities := map[string]authority{}
	for _, name := range []string{"ca", "etcd-ca", "front-proxy-ca"} {
		made, err := newAuthority(dir, name)
		if err != nil {
			return err
		}
		authorities[name] = made
	}
	service := []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc",
		"kubernetes.default.svc.cluster.local"}
	leaves := []leaf{
		{file: "etcd", authority: "etcd-ca", name: "etcd", dns: []string{"localhost"}, ips: ips},
		{file: "apiserver-etcd-client", authority: "etcd-ca", name: "kube-apiserver"},
		{file: "front-proxy-client", authority: "front-proxy-ca", name: "front-proxy-client"},
		{file: "apiserver", authority: "ca", name: "kube-apiserver", dns: service, ips: ips},
		{file: "apiserver-kubelet-client", authority: "ca", name: "kube-apiserver", organization: "system:masters"},
		{file: "kubelet", authority: "ca", name: "system:node:" + node, organization: "system:nodes",
			dns: []string{node}, ips: ips},
		{file: "admin", authority: "ca", name: "admin", organization: "system:masters"},
		{file: "controller-manager", authority: "ca", name: "system:kube-controller-manager",
			dns: []string{"localhost"}, ips: ips},
		{file: "scheduler", authority: "ca", name: "system:kube-scheduler", dns: []string{"localhost"}, ips: ips},
		{file: "kube-proxy", authority: "ca", name: "system:kube-proxy"},
	}
	for _, one := range leaves {
		if err := newLeaf(dir, one, authorities[one.authority]); err != nil {
			return err
		}
	}
	return newTokenKey(dir)
}

func newAuthority(dir, name string) (authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return authority{}, err
	}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: "vernal-" + name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(validFor),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return authority{}, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return authority{}, err
	}
	return authority{cert, key}, writePair(dir, name, der, key)
}

func newLeaf(dir string, one leaf, signer authority) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	subject := pkix.Name{CommonName: one.name}
	if one.organization != "" {
		subject.Organization = []string{one.organization}
	}
	template := &x509.Certificate{
		SerialNumber: serial(), Subject: subject, DNSNames: one.dns, IPAddresses: one.ips,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(validFor),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, signer.cert, &key.PublicKey, signer.key)
	if err != nil {
		return err
	}
	return writePair(dir, one.file, der, key)
}

func newTokenKey(dir string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return err
	}
	if err := writePEM(filepath.Join(dir, "sa.pub"), "PUBLIC KEY", public); err != nil {
		return err
	}
	return writeKey(dir, "sa", key)
}

func serial() *big.Int {
	number, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		panic(err) // the kernel has no randomness: nothing made here could be trusted
	}
	return number
}

func writePair(dir, name string, der []byte, key *ecdsa.PrivateKey) error {
	if err := writePEM(filepath.Join(dir, name+".crt"), "CERTIFICATE", der); err != nil {
		return err
	}
	return writeKey(dir, name, key)
}

func writeKey(dir, name string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	return writePEM(filepath.Join(dir, name+".key"), "EC PRIVATE KEY", der)
}

func writePEM(path, kind string, der []byte) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}
