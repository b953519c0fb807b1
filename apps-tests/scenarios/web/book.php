<?php
// A guest book: each request adds an entry. Answers with the number of this session's requests and of the guest's entries.
session_start();
$_SESSION['requests'] = ($_SESSION['requests'] ?? 0) + 1;
$book = new PDO('sqlite:/var/lib/book/book.db', null, null, [PDO::ATTR_TIMEOUT => 120, PDO::ATTR_PERSISTENT => true]);
$book->setAttribute(PDO::ATTR_ERRMODE, PDO::ERRMODE_EXCEPTION);
$add = $book->prepare('INSERT INTO book VALUES (?, ?)');
$add->execute([session_id(), $_POST['text']]);
$count = $book->prepare('SELECT COUNT(*) FROM book WHERE guest = ?');
$count->execute([session_id()]);
header('Content-Type: text/plain');
echo $_SESSION['requests'], ' ', $count->fetchColumn(), "\n";
